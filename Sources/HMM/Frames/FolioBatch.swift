import Synchronization

// Single-page folios by the hundred: one lock of the allocator for all, and plain stores where nobody else can be.

extension UnsafeMutableBufferPointer<FrameNumber> {
    /// Sorts frames in the order of their numbers, so that neighbours are used one after the other: copies of them are
    /// twice as fast as jumping about, and a kernel moves them with one call. Frames that were freed together come back
    /// in reverse.
    package func sortByNumber() {
        guard count > 1 else { return }
        var frames = self
        if frames[0] > frames[count - 1] { frames.reverse() }
        var isSorted = true
        for i in 1..<count where frames[i] < frames[i - 1] { isSorted = false }
        if !isSorted { frames.sort() }
    }
}

extension FrameTable {
    /// Prepares a frame from an allocator as a locked folio with one reference.
    @inline(__always)
    func prepareLockedSingle(_ frame: FrameNumber) {
        checkUnused(frame)
        record(frame).pointee.geometry.store(0, ordering: .relaxed)
        publishLockedSingle(frame)
    }

    /// Up to `count` locked single-page folios of system memory. Answers how many there were.
    func allocateLockedSingles(_ count: Int, into heads: UnsafeMutablePointer<FrameNumber>) -> Int {
        guard !injector.shouldFail(.frame) else { return 0 }
        let taken = system.allocate(count, into: heads)
        for i in 0..<taken { prepareLockedSingle(heads[i]) }
        return taken
    }

    /// Unlocks the folios and drops a reference of each. Those of which it was the last go back to their allocators
    /// together; all of them are single pages, and the array is used as scratch space.
    package func unlockAndPut(_ heads: UnsafeMutablePointer<FrameNumber>, count: Int) {
        var free = 0
        for i in 0..<count {
            let frame = heads[i]
            unlockFolio(frame)
            guard putSingle(frame) else { continue }
            heads[free] = frame
            free += 1
        }
        freeSingles(heads, count: free)
    }

    /// The same for folios that are not locked.
    package func putSingles(_ heads: UnsafeMutablePointer<FrameNumber>, count: Int) {
        var free = 0
        for i in 0..<count where putSingle(heads[i]) {
            heads[free] = heads[i]
            free += 1
        }
        freeSingles(heads, count: free)
    }

    /// Drops a reference. True: it was the last, and the frame is to be given back with others.
    @inline(__always)
    private func putSingle(_ frame: FrameNumber) -> Bool {
        if Seam.isWatching { announcePut(frame) }
        let left = record(frame).pointee.refCount.subtract(1, ordering: .acquiringAndReleasing).newValue
        guard left == 0 else { return false }
        guard resetSingle(frame) else {
            record(frame).pointee.refCount.store(1, ordering: .relaxed)
            put(frame)
            return false
        }
        return true
    }

    /// Makes the record of a folio without references that of a free frame. False: it needs the long way.
    @inline(__always)
    private func resetSingle(_ frame: FrameNumber) -> Bool {
        let record = record(frame)
        let flags = record.pointee.flags.load(ordering: .acquiring)
        guard flags & (FrameFlags.hasPoison | FrameFlags.swapCache | FrameFlags.hugetlb) == 0 else { return false }
        precondition(flags & FrameFlags.locked == 0, "a locked folio was freed")
        precondition(record.pointee.mapCount.load(ordering: .relaxed) == 0, "a mapped folio was freed")
        record.pointee.flags.store(0, ordering: .relaxed)
        let generation = record.pointee.generation.load(ordering: .relaxed)
        record.pointee.generation.store(generation &+ 1, ordering: .releasing)
        record.pointee.mapping.store(0, ordering: .relaxed)
        record.pointee.pinCount.store(0, ordering: .relaxed)
        record.pointee.swapSlot.store(0, ordering: .relaxed)
        return true
    }

    /// Makes each page of a large folio of a device, which no entry names, a folio of its own with one reference. The
    /// caller has it locked, and a reference beside the one that keeps it: both are the head's afterwards, the other
    /// pages are unlocked.
    package func splitUnmapped(_ head: FrameNumber) {
        let order = order(ofHead: head)
        precondition(isLocked(head) && order > 0, "only a locked large folio can be split")
        // Who else takes a reference finds it locked, and lets go.
        while !freeze(head, expected: 2) { SyncThread.yield() }
        // In the order of use before anybody can free one of them.
        deviceMemory(of: head)!.willSplit(head, order: order)
        let inherited = flags(head) & FrameFlags.referenced
        for i in 1..<1 << order {
            let page = record(head + i)
            page.pointee.geometry.store(0, ordering: .relaxed)
            page.pointee.flags.store(inherited, ordering: .releasing)
            unfreeze(head + i, count: 1)
        }
        record(head).pointee.geometry.store(0, ordering: .relaxed)
        unfreeze(head, count: 2)
    }

    /// Gives reset frames back, zone by zone.
    private func freeSingles(_ heads: UnsafeMutablePointer<FrameNumber>, count: Int) {
        var first = 0
        while first < count {
            let zone = zone(of: heads[first])
            var end = first + 1
            while end < count, self.zone(of: heads[end]) == zone { end += 1 }
            if zone == 0 {
                system.free(heads + first, count: end - first)
            } else {
                deviceMemory(of: heads[first])!.singlesFreed(heads + first, count: end - first)
            }
            first = end
        }
    }
}
