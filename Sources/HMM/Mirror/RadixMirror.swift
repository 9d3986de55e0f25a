import Synchronization

/// What a `RadixMirror` is made for.
public struct MirrorConfiguration: Sendable {
    /// The last page that may be mirrored, inclusively; the number of levels follows from it.
    public var lastPage = Geometry.endPage.advanced(by: -1)
    /// Empty directories that may stay linked. 0 frees each one when its last entry and the last iterator left.
    public var emptyBudget = 64
    /// Directories at most; reserves address space, not memory.
    public var directoryLimit = 1 << 18
    /// Where the device sees system frames: device page number = frame number + offset.
    public var deviceAddressOffset: UInt64 = 0
    /// Asked before each directory is allocated.
    public var mayAllocate: MirrorAllocationHook?

    public init() {}

    /// Frees directories at once, for tests of pruning.
    public static var pruneImmediately: Self {
        var configuration = Self()
        configuration.emptyBudget = 0
        return configuration
    }
}

/// The default mirror: a radix tree of 4 KiB directories with leaves of 4 KiB, 2 MiB and 1 GiB.
///
/// Locks: driver lock (the caller's) > directory lock > nothing, at most one directory lock at a time. Lookups and
/// dirty bits take no lock.
public final class RadixMirror: MirrorTable {
    public let configuration: MirrorConfiguration
    let tree: DirectoryTree
    let gate = MirrorGate()
    let effects: MirrorEffects
    /// The directory that lets an invalidation demote one huge leaf, because it must not allocate.
    let spare = Atomic<UInt32>(DirectoryPool.none)
    let counters = Counters()

    /// Sums that each call adds to once a directory.
    final class Counters: Sendable {
        let mappedPages = Atomic<Int>(0)
        let hugeEntries = Atomic<Int>(0)
        let promotions = Atomic<Int>(0)
        let demotions = Atomic<Int>(0)
        let wholeLeafDrops = Atomic<Int>(0)
        let inconsistentCommits = Atomic<Int>(0)
        let dirtyWithoutWrite = Atomic<Int>(0)

        /// Leaves of a level came (or, negative, went).
        func addLeaves(_ number: Int, level: Int) {
            guard number != 0 else { return }
            mappedPages.add(number * MirrorGeometry.span(level), ordering: .relaxed)
            if level > 0 { hugeEntries.add(number, ordering: .relaxed) }
        }
    }

    public init(_ configuration: MirrorConfiguration = .init(), effects: MirrorEffects = .init()) {
        self.configuration = configuration
        self.effects = effects
        tree = DirectoryTree(
            geometry: MirrorGeometry(lastPage: configuration.lastPage), capacity: configuration.directoryLimit,
            emptyBudget: configuration.emptyBudget, mayAllocate: configuration.mayAllocate)
    }

    var geometry: MirrorGeometry { tree.geometry }
    var pool: DirectoryPool { tree.pool }

    // MARK: Without locks

    /// Finds the leaf slot of a page. The caller is in a section of the epoch, so no directory on the way is reused; a
    /// dead one is all zero.
    private func leafSlot(of page: PageNumber) -> (slot: UnsafeMutablePointer<Atomic<UInt64>>, entry: MirrorEntry)? {
        var directory = tree.root
        var level = geometry.rootLevel
        while true {
            let slot = pool.entries(directory) + MirrorGeometry.index(page, level)
            schedulingPoint(.load, on: UInt(bitPattern: slot))
            let entry = MirrorEntry(word: slot.pointee.load(ordering: .acquiring))
            guard entry.isDirectory else { return entry.isValid ? (slot, entry) : nil }
            directory = entry.directoryIndex
            level -= 1
        }
    }

    public func lookup(_ page: PageNumber) -> MirrorEntry? {
        guard page <= geometry.lastPage else { return nil }
        let section = pool.epoch.enter()
        defer { pool.epoch.leave(section) }
        guard let (_, entry) = leafSlot(of: page) else { return nil }
        return entry.advanced(by: Self.offset(of: page, in: entry))
    }

    /// How far into its leaf a page is.
    static func offset(of page: PageNumber, in entry: MirrorEntry) -> Int {
        Int(page.raw & UInt64(MirrorGeometry.span(entry.level) - 1))
    }

    public func markDirty(_ page: PageNumber, through translation: MirrorEntry) -> Bool {
        guard translation.isWritable else {
            counters.dirtyWithoutWrite.add(1, ordering: .relaxed)
            return false
        }
        return change(page) { entry in
            let own = entry.advanced(by: Self.offset(of: page, in: entry))
            guard entry.isWritable, (own.word ^ translation.word) & MirrorEntry.translationMask == 0 else { return nil }
            return entry.word | MirrorEntry.dirtyBit
        }
    }

    /// Sets the bits of the leaf of a page that are free for the driver; false if there is no valid entry.
    public func setDriverBits(_ bits: UInt8, of page: PageNumber) -> Bool {
        let shifted = UInt64(bits) << MirrorEntry.driverShift & MirrorEntry.driverMask
        return change(page) { $0.word & ~MirrorEntry.driverMask | shifted }
    }

    /// Changes bits that no lock guards, in one atomic step, unless `change` says no.
    ///
    /// Each further turn means that another thread changed the same entry.
    private func change(_ page: PageNumber, _ change: (MirrorEntry) -> UInt64?) -> Bool {
        guard page <= geometry.lastPage else { return false }
        let section = pool.epoch.enter()
        defer { pool.epoch.leave(section) }
        while let (slot, entry) = leafSlot(of: page) {
            guard let word = change(entry) else { return false }
            if word == entry.word { return true }
            schedulingPoint(.update, on: UInt(bitPattern: slot))
            if slot.pointee.compareExchange(
                expected: entry.word, desired: word, ordering: .acquiringAndReleasing
            ).exchanged { return true }
        }
        return false
    }

    // MARK: Memory

    /// Gives up every empty directory and free memory. Waits for readers: not from an invalidation.
    ///
    /// Returns the bytes that went back to the host.
    public func shrink() -> Int {
        freeEmpties()
        return pool.releaseFreeMemory()
    }

    private func freeEmpties() {
        gate.enter()
        tree.pruneEmpties()
        gate.leave()
        pool.synchronize()
    }

    /// Clears and frees everything: the end of the address space, the removal of the device, or a device that failed.
    ///
    /// Whoever comes second finds an empty table.
    public func tearDown() {
        let isDone = invalidate(geometry.allPages, keeping: .nothingAndPrune, isBlockable: true)
        precondition(isDone, "a blocking invalidation was refused")
        let last = spare.exchange(DirectoryPool.none, ordering: .acquiringAndReleasing)
        if last != DirectoryPool.none { pool.giveBack(last) }
        freeEmpties()
    }

    /// Keeps a directory ready for the next demotion. A failure only makes that demotion a drop.
    func refillSpare() {
        guard spare.load(ordering: .relaxed) == DirectoryPool.none else { return }
        let directory = tree.allocate()
        guard directory != DirectoryPool.none else { return }
        if !spare.compareExchange(
            expected: DirectoryPool.none, desired: directory, ordering: .acquiringAndReleasing
        ).exchanged { pool.giveBack(directory) }
    }

    public var statistics: MirrorStatistics {
        let occupancy = pool.occupancy
        var result = MirrorStatistics()
        result.mappedPages = counters.mappedPages.load(ordering: .relaxed)
        result.hugeEntries = counters.hugeEntries.load(ordering: .relaxed)
        result.directories = tree.linked.load(ordering: .relaxed)
        result.bytes = result.directories * DirectoryPool.bytesPerDirectory
        let kept = occupancy.used - result.directories + tree.empties.listedCount
        result.reserveBytes = kept * DirectoryPool.bytesPerDirectory
        result.directoriesAllocated = tree.allocated.load(ordering: .relaxed)
        result.directoriesPruned = tree.pruned.load(ordering: .relaxed)
        result.promotions = counters.promotions.load(ordering: .relaxed)
        result.demotions = counters.demotions.load(ordering: .relaxed)
        result.wholeLeafDrops = counters.wholeLeafDrops.load(ordering: .relaxed)
        result.inconsistentCommits = counters.inconsistentCommits.load(ordering: .relaxed)
        result.dirtyWithoutWrite = counters.dirtyWithoutWrite.load(ordering: .relaxed)
        return result
    }
}
