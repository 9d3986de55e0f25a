import Glibc
import Synchronization

/// Where a directory stands. Immutable from before it is linked until it is freed.
struct DirectoryPlace: Hashable {
    private let word: UInt64
    /// The directory above; none for the root.
    let parent: UInt32

    init(basePage: PageNumber, level: Int, parent: UInt32) {
        word = basePage.raw << 8 | UInt64(level)
        self.parent = parent
    }

    var basePage: PageNumber { PageNumber(word >> 8) }
    var level: Int { Int(word & 0xff) }
    var pages: PageRange { basePage..<basePage.advanced(by: MirrorGeometry.span(level + 1)) }
}

/// The directories of one mirror: a reserved region of 4 KiB tables, named by their index, with a flat array of records
/// beside them. Index 0 is never used.
///
/// A directory that was unlinked goes to a limbo list until no reader can see it any more, and then to the free list.
///
/// Invariant: INV-MT-FREE: a free directory is all zero, so taking one costs no clearing.
final class DirectoryPool: @unchecked Sendable {
    /// Index of no directory.
    static let none: UInt32 = 0
    /// The parts of a record. Each is a word of its own, because they have different guards.
    private enum Offset {
        static let lock = 0
        static let count = 4
        static let validEntries = 8
        static let link = 12
        static let place = 16
        static let listedAt = 28
    }
    private static let recordBytes = 32
    static let bytesPerDirectory = Geometry.pageSizeBytes + recordBytes

    let epoch = MirrorEpoch()
    /// Entry words; those of directory d start at d · 512.
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let records: UnsafeMutableRawPointer
    private let region: UnsafeMutableRawPointer
    private let regionBytes: Int
    private let capacity: UInt32

    private let lock = SpinLock(.pool)
    // The rest is guarded by `lock`.
    private var used: UInt32 = 1
    private var freeHead = DirectoryPool.none
    private var freeCount = 0
    /// Lists of unlinked directories, by the phase of their unlinking modulo 3.
    private let limbo: UnsafeMutablePointer<UInt32>
    private var limboTotal = 0
    /// `limboTotal`, to be looked at without the lock.
    private let limboHint = Atomic<Int>(0)

    /// Reserves address space for `capacity` directories; memory is taken as they are used.
    init(capacity: Int) {
        precondition(capacity > 0 && capacity < Int(UInt32.max), "impossible number of directories")
        let count = capacity + 1
        let wordBytes = count * Geometry.pageSizeBytes
        regionBytes = wordBytes + count * Self.recordBytes
        precondition(
            MemoryLayout<SpinLock>.size == 4 && MemoryLayout<DirectoryPlace>.size == 12,
            "the parts of a record have other sizes")
        region = DirectoryRegion.take(regionBytes)
        self.capacity = UInt32(capacity)
        // SAFETY: the region is zeroed, page aligned and large enough; atomics of zero bits are atomics of value zero;
        // locks are initialized when their directory is taken first.
        words = region.bindMemory(to: Atomic<UInt64>.self, capacity: count * MirrorGeometry.entriesPerDirectory)
        records = region + wordBytes
        limbo = .allocate(capacity: 3)
        limbo.initialize(repeating: Self.none, count: 3)
    }

    deinit {
        limbo.deallocate()
        // Free directories are all zero, and so is everything that was never used.
        let isZero = freeCount == used - 1 && used <= DirectoryRegion.keptDirectories
        DirectoryRegion.giveBack(region, regionBytes, isZero: isZero)
    }

    /// The 512 words of a directory.
    @inline(__always)
    func entries(_ directory: UInt32) -> UnsafeMutablePointer<Atomic<UInt64>> {
        words + Int(directory) * MirrorGeometry.entriesPerDirectory
    }

    /// SAFETY: a record has these parts at these places, from `init` to `deinit`.
    @inline(__always)
    private func part<T: ~Copyable>(_ offset: Int, of directory: UInt32, as type: T.Type) -> UnsafeMutablePointer<T> {
        (records + Int(directory) * Self.recordBytes + offset).assumingMemoryBound(to: T.self)
    }

    @inline(__always)
    func lock(_ directory: UInt32) -> UnsafeMutablePointer<SpinLock> {
        part(Offset.lock, of: directory, as: SpinLock.self)
    }

    /// Valid entries, protecting iterators, and 1 while it is in the ring of empties (INV-MT-1).
    @inline(__always)
    func count(_ directory: UInt32) -> UnsafeMutablePointer<Atomic<UInt32>> {
        part(Offset.count, of: directory, as: Atomic<UInt32>.self)
    }

    /// Entries that are valid or directories. Guarded by the directory's lock.
    @inline(__always)
    func validEntries(_ directory: UInt32) -> UnsafeMutablePointer<UInt32> {
        part(Offset.validEntries, of: directory, as: UInt32.self)
    }

    /// Place in the ring of empties plus 1, or 0. Guarded by the lock of the ring.
    func listedAt(_ directory: UInt32) -> UnsafeMutablePointer<UInt32> {
        part(Offset.listedAt, of: directory, as: UInt32.self)
    }

    /// The next directory in the free list or in a limbo list. Guarded by the lock of the pool.
    private func link(_ directory: UInt32) -> UnsafeMutablePointer<UInt32> {
        part(Offset.link, of: directory, as: UInt32.self)
    }

    @inline(__always)
    func place(_ directory: UInt32) -> UnsafeMutablePointer<DirectoryPlace> {
        part(Offset.place, of: directory, as: DirectoryPlace.self)
    }

    /// A directory that nobody else knows, all zero, count 1; `none` if the pool is used up.
    func take() -> UInt32 {
        var directory = takeFree()
        if directory == Self.none {
            collect()
            directory = takeFree()
        }
        guard directory != Self.none else { return directory }
        count(directory).pointee.store(1, ordering: .relaxed)
        return directory
    }

    private func takeFree() -> UInt32 {
        lock.lock()
        defer { lock.unlock() }
        if freeHead != Self.none {
            let directory = freeHead
            freeHead = link(directory).pointee
            freeCount -= 1
            return directory
        }
        guard used <= capacity else { return Self.none }
        let directory = used
        used += 1
        lock(directory).initialize(to: SpinLock(.mirrorDirectory))
        return directory
    }

    /// Takes back a directory that was never linked.
    func giveBack(_ directory: UInt32) {
        count(directory).pointee.store(0, ordering: .relaxed)
        lock.withLock { pushFree(directory) }
    }

    private func pushFree(_ directory: UInt32) {
        link(directory).pointee = freeHead
        freeHead = directory
        freeCount += 1
    }

    /// Takes a dead directory that was just unlinked; it is free after a grace period.
    func retire(_ directory: UInt32) {
        epoch.willNote()
        lock.withLock {
            let list = Int(epoch.current % 3)
            link(directory).pointee = limbo[list]
            limbo[list] = directory
            limboTotal += 1
            limboHint.store(limboTotal, ordering: .relaxed)
        }
    }

    /// Frees what no reader can see any more. Never waits for readers.
    func collect() {
        guard limboHint.load(ordering: .relaxed) != 0 else { return }
        epoch.willAdvance()
        lock.withLock {
            // Two steps of the phase suffice for everything that is in limbo now.
            for _ in 0..<2 where limboTotal > 0 {
                guard epoch.advance() else { break }
                freeList(Int((epoch.current &- 2) % 3))
            }
            limboHint.store(limboTotal, ordering: .relaxed)
        }
    }

    private func freeList(_ list: Int) {
        var next = limbo[list]
        limbo[list] = Self.none
        while next != Self.none {
            let directory = next
            next = link(directory).pointee
            limboTotal -= 1
            pushFree(directory)
        }
    }

    /// Waits until everything in limbo is free.
    func synchronize() {
        while limboHint.load(ordering: .relaxed) != 0 {
            epoch.waitForReaders()
            collect()
        }
    }

    /// Gives the memory of free directories back to the host; they stay zero. Answers the number of bytes.
    func releaseFreeMemory() -> Int {
        lock.withLock {
            var directory = freeHead
            while directory != Self.none {
                madvise(entries(directory), Geometry.pageSizeBytes, MADV_DONTNEED)
                directory = link(directory).pointee
            }
            return freeCount * Geometry.pageSizeBytes
        }
    }

    /// Directories ever used, free, and in limbo. For statistics and checks.
    var occupancy: (used: Int, free: Int, limbo: Int) {
        lock.withLock { (Int(used) - 1, freeCount, limboTotal) }
    }

    /// Every free directory is zero and uncounted, and the list has its length.
    func checkFreeList() -> [String] {
        lock.withLock {
            var found: [String] = []
            var length = 0
            var directory = freeHead
            while directory != Self.none, length <= Int(used) {
                length += 1
                let table = entries(directory)
                for index in 0..<MirrorGeometry.entriesPerDirectory where table[index].load(ordering: .relaxed) != 0 {
                    found.append("INV-MT-FREE: free directory \(directory) has an entry at \(index)")
                }
                if count(directory).pointee.load(ordering: .relaxed) != 0 {
                    found.append("INV-MT-FREE: free directory \(directory) is counted")
                }
                directory = link(directory).pointee
            }
            if length != freeCount { found.append("INV-MT-FREE: \(length) free directories, \(freeCount) counted") }
            return found
        }
    }
}
