import Synchronization

/// The life of directories: counts, links, pruning.
///
/// ```
/// free      all zero, count 0
///   | take
/// private   count 1: its creator
///   | link, under the parent's lock
/// linked    count = entries + iterators (+ 1 while listed) <------------------------------+
///   | the last iterator leaves and no entry is left                                       | filled again
///   |---- lazy: the ring of empties takes over the last protection ----> listed, count 1 -+
///   | at once, or out of the ring <--------------------------------------- |
/// dead      count 0, once; unlinked under the parent's lock
///   | retire
/// limbo     until every reader that could have seen it has left
///   | collect
/// free
/// ```
///
/// The count reaches zero only when a protection is dropped, never when an entry changes, because whoever changes an
/// entry protects its directory (INV-MT-3). So no lock on the whole tree is needed. A dead directory cannot come back:
/// protection increments unless zero. The root is never pruned, and its count is its entries alone.
///
/// Locks: `mirrorDirectory`, at most one at a time; a dead directory is unlinked under its parent's lock after its own
/// was used for the last time. The locks of pool and ring are leaves, taken with no directory lock held.
final class DirectoryTree: Sendable {
    let geometry: MirrorGeometry
    let pool: DirectoryPool
    let empties: EmptyDirectories
    let root: UInt32
    private let mayAllocate: MirrorAllocationHook?
    let linked = Atomic<Int>(1)
    let allocated = Atomic<Int>(0)
    let pruned = Atomic<Int>(0)

    init(geometry: MirrorGeometry, capacity: Int, emptyBudget: Int, mayAllocate: MirrorAllocationHook?) {
        self.geometry = geometry
        self.mayAllocate = mayAllocate
        pool = DirectoryPool(capacity: capacity)
        empties = EmptyDirectories(budget: emptyBudget, pool: pool)
        root = pool.take()
        pool.place(root).pointee = DirectoryPlace(
            basePage: PageNumber(0), level: geometry.rootLevel, parent: DirectoryPool.none)
        pool.count(root).pointee.store(0, ordering: .relaxed)
    }

    /// A tree that was torn down leaves all its directories zero.
    deinit {
        if pool.count(root).pointee.load(ordering: .relaxed) == 0 { pool.giveBack(root) }
    }

    /// A private directory with count 1, or `none` if there is no memory.
    func allocate() -> UInt32 {
        if let mayAllocate, !mayAllocate() { return DirectoryPool.none }
        let directory = pool.take()
        if directory != DirectoryPool.none { allocated.add(1, ordering: .relaxed) }
        return directory
    }

    /// Increments the count unless the directory is dying. The caller is in a section of the epoch.
    func tryProtect(_ directory: UInt32) -> Bool {
        let count = pool.count(directory)
        // Protections count themselves in; whoever drops or kills looks at the count.
        schedulingPoint(.load, on: UInt(bitPattern: count))
        var seen = count.pointee.load(ordering: .relaxed)
        while seen != 0 {
            let result = count.pointee.weakCompareExchange(
                expected: seen, desired: seen + 1, successOrdering: .acquiring, failureOrdering: .relaxed)
            if result.exchanged { return true }
            seen = result.original
        }
        return false
    }

    /// Increments the count of a directory that cannot die now, because a child of it is held.
    private func protectParent(_ directory: UInt32) {
        let old = pool.count(directory).pointee.add(1, ordering: .relaxed).oldValue
        precondition(old > 0, "a directory with a live child was dead")
    }

    /// Gives back a protection. The caller still protects the parent.
    ///
    /// - Parameter isForced: free the directory at once if it is empty; otherwise it goes to the ring of empties.
    func drop(_ directory: UInt32, isForced: Bool) {
        let count = pool.count(directory)
        if isForced { unlist(directory) }
        schedulingPoint(.update, on: UInt(bitPattern: count))
        var seen = count.pointee.load(ordering: .acquiring)
        while true {
            precondition(seen > 0, "a protection was dropped twice")
            if seen == 1 && !isForced && empties.budget > 0 {
                // Only our protection is left: no entry, and the ring does not have it. It takes our protection over.
                let evicted = empties.add(directory)
                if evicted != DirectoryPool.none { evict(evicted) }
                return
            }
            let result = count.pointee.weakCompareExchange(
                expected: seen, desired: seen - 1, successOrdering: .acquiringAndReleasing,
                failureOrdering: .acquiring)
            if result.exchanged {
                if seen == 1 { _ = unlink(directory) }
                return
            }
            seen = result.original
        }
    }

    /// Drops a protection by somebody who protects nothing else, and frees what becomes empty, upwards to the root.
    func evict(_ directory: UInt32) {
        var current = directory
        while current != root {
            // It stays linked while we hold it, so its parent lives.
            let parent = pool.place(current).pointee.parent
            if parent != root { protectParent(parent) }
            drop(current, isForced: true)
            current = parent
        }
    }

    /// Takes the ring's protection away, while the caller has one of its own.
    private func unlist(_ directory: UInt32) {
        guard empties.remove(directory) else { return }
        let old = pool.count(directory).pointee.subtract(1, ordering: .relaxed).oldValue
        precondition(old > 1, "a listed directory lost a protection")
    }

    /// Clears the link to a dead directory, unless a populate that met it was faster, and lets go of it.
    ///
    /// - Parameter leaf: stands in its place from now on, for a promotion.
    /// - Returns: whether the link was still there.
    /// Precondition: the caller protects the parent, and took the count to zero.
    func unlink(_ directory: UInt32, leaving leaf: MirrorEntry = MirrorEntry(word: 0)) -> Bool {
        let place = pool.place(directory).pointee
        let parent = place.parent
        let slot = pool.entries(parent) + MirrorGeometry.index(place.basePage, place.level + 1)
        pool.lock(parent).pointee.lock()
        let isLinked = slot.pointee.load(ordering: .relaxed) == MirrorEntry.directory(directory).word
        if isLinked {
            slot.pointee.store(leaf.word, ordering: .releasing)
            if !leaf.isValid { entriesLeft(1, in: parent) }
        }
        pool.lock(parent).pointee.unlock()
        linked.subtract(1, ordering: .relaxed)
        pruned.add(1, ordering: .relaxed)
        pool.retire(directory)
        return isLinked
    }

    /// Takes the count of an empty directory to zero, if only the caller protects it.
    func kill(_ directory: UInt32) -> Bool {
        unlist(directory)
        let count = pool.count(directory)
        schedulingPoint(.update, on: UInt(bitPattern: count))
        return count.pointee.compareExchange(expected: 1, desired: 0, ordering: .acquiringAndReleasing).exchanged
    }

    /// Entries of a directory became invalid. The caller holds its lock and protects it.
    func entriesLeft(_ number: UInt32, in directory: UInt32) {
        pool.validEntries(directory).pointee -= number
        let old = pool.count(directory).pointee.subtract(number, ordering: .relaxed).oldValue
        precondition(directory == root ? old >= number : old > number, "INV-MT-3: an entry took the last count")
    }

    /// Entries of a directory became valid. The caller holds its lock and protects it.
    func entriesCame(_ number: UInt32, in directory: UInt32) {
        pool.validEntries(directory).pointee += number
        let old = pool.count(directory).pointee.add(number, ordering: .relaxed).oldValue
        precondition(directory == root || old > 0, "INV-MT-3: a dead directory got an entry")
    }

    /// Whether the directory behind a link has died. The caller holds the lock of the linking directory, so it is
    /// still a link to this one.
    func isDead(_ directory: UInt32) -> Bool {
        pool.count(directory).pointee.load(ordering: .acquiring) == 0
    }

    /// Links a private directory at `page`, if the slot is empty or its directory is dead.
    ///
    /// A dead one is replaced right here: waiting for its pruner could be waiting for a thread that cannot run.
    func link(_ child: UInt32, in parent: UInt32, at page: PageNumber) -> Bool {
        let level = pool.place(parent).pointee.level
        let base = page.alignedDown(order: MirrorGeometry.order(level))
        pool.place(child).pointee = DirectoryPlace(basePage: base, level: level - 1, parent: parent)
        let slot = pool.entries(parent) + MirrorGeometry.index(page, level)
        pool.lock(parent).pointee.lock()
        defer { pool.lock(parent).pointee.unlock() }
        let seen = MirrorEntry(word: slot.pointee.load(ordering: .relaxed))
        if seen.isDirectory {
            guard isDead(seen.directoryIndex) else { return false }
        } else {
            guard !seen.isValid else { return false }
            entriesCame(1, in: parent)
        }
        slot.pointee.store(MirrorEntry.directory(child).word, ordering: .releasing)
        linked.add(1, ordering: .relaxed)
        return true
    }

    /// Frees all listed empties.
    func pruneEmpties() {
        while true {
            let directory = empties.takeOldest()
            if directory == DirectoryPool.none { return }
            evict(directory)
        }
    }
}
