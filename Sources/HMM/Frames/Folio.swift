import Synchronization

// Folios: 2^k aligned, contiguous frames treated as one object, named by their head frame.
//
// A reference keeps a folio from being freed; a mapping is a reference plus a map count. Who holds no reference may
// look at a folio only by `tryGet`, and must check afterwards that it is still the one it meant.

extension FrameTable {
    /// The head of the folio that contains `frame`.
    @inline(__always)
    package func head(of frame: FrameNumber) -> FrameNumber {
        let record = record(frame)
        guard record.pointee.flags.load(ordering: .acquiring) & FrameFlags.tail != 0 else { return frame }
        return FrameNumber(frame.raw - record.pointee.geometry.load(ordering: .relaxed))
    }

    /// The order of the folio with this head.
    @inline(__always)
    package func order(ofHead head: FrameNumber) -> Int {
        Int(record(head).pointee.geometry.load(ordering: .relaxed))
    }

    @inline(__always)
    func pageCount(ofHead head: FrameNumber) -> Int { 1 << order(ofHead: head) }

    /// Whether the page belongs to a folio of more than one page.
    @inline(__always)
    package func isLarge(_ frame: FrameNumber) -> Bool {
        hasFlags(frame, FrameFlags.tail) || order(ofHead: frame) > 0
    }

    // MARK: Allocation

    /// A folio of 2^`order` frames with one reference, contents undefined, mapped nowhere and known to nobody.
    package func allocateFolio(order: Int = 0) -> FrameNumber? {
        guard !injector.shouldFail(order == 0 ? .frame : .hugeFolio) else { return nil }
        if order == 0 {
            var frame = FrameNumber.none
            guard system.allocate(1, into: &frame) == 1 else { return nil }
            prepareSingle(frame)
            return frame
        }
        guard let head = system.allocateBlock(order: order) else { return nil }
        prepareFolio(head, order: order)
        return head
    }

    /// As `allocateFolio`, with the folio lock held.
    package func allocateLockedFolio(order: Int = 0) -> FrameNumber? {
        guard !injector.shouldFail(order == 0 ? .frame : .hugeFolio) else { return nil }
        if order == 0 {
            var frame = FrameNumber.none
            guard system.allocate(1, into: &frame) == 1 else { return nil }
            prepareLockedSingle(frame)
            return frame
        }
        guard let head = system.allocateBlock(order: order) else { return nil }
        prepareLockedFolio(head, order: order)
        return head
    }

    /// Up to `count` single-page folios, as `allocateFolio`. Answers how many there were.
    func allocateSingles(_ count: Int, into frames: UnsafeMutablePointer<FrameNumber>) -> Int {
        guard !injector.shouldFail(.frame) else { return 0 }
        let count = system.allocate(count, into: frames)
        for i in 0..<count { prepareSingle(frames[i]) }
        return count
    }

    /// Gives back frames from `allocateSingles` that are not used after all. The array is used as scratch space.
    ///
    /// Somebody with an entry of a former life may be looking at one of them, by `tryGet`: it is freed when that one
    /// lets go.
    func freeUnusedSingles(_ frames: UnsafeMutablePointer<FrameNumber>, count: Int) {
        var free = 0
        for i in 0..<count {
            let frame = frames[i]
            if Seam.isWatching { announcePut(frame) }
            let left = record(frame).pointee.refCount.subtract(1, ordering: .acquiringAndReleasing).newValue
            guard left == 0 else { continue }
            record(frame).pointee.generation.wrappingAdd(1, ordering: .relaxed)
            frames[free] = frame
            free += 1
        }
        system.free(frames, count: free)
    }

    @inline(__always)
    func prepareSingle(_ frame: FrameNumber) {
        let record = record(frame)
        checkUnused(frame)
        record.pointee.flags.store(0, ordering: .relaxed)
        record.pointee.geometry.store(0, ordering: .relaxed)
        announceFirst(frame)
        record.pointee.refCount.store(1, ordering: .releasing)
    }

    func prepareFolio(_ head: FrameNumber, order: Int) {
        for i in 0..<(1 << order) { checkUnused(head + i) }
        initializeGeometry(head, order: order)
        announceFirst(head)
        record(head).pointee.refCount.store(1, ordering: .releasing)
    }

    /// Announces the first reference of a folio: from then on it can be found by the number of its frame, also by who
    /// means a former life of it.
    @inline(__always)
    func announceFirst(_ head: FrameNumber) { schedulingPoint(.update, on: countKey(head)) }

    /// As `prepareFolio`, with the folio lock held.
    func prepareLockedFolio(_ head: FrameNumber, order: Int) {
        if order == 0 { return prepareLockedSingle(head) }
        for i in 0..<(1 << order) { checkUnused(head + i) }
        initializeGeometry(head, order: order)
        publishLocked(head)
    }

    func initializeGeometry(_ head: FrameNumber, order: Int) {
        record(head).pointee.flags.bitwiseAnd(FrameFlags.upToDate, ordering: .relaxed)
        record(head).pointee.geometry.store(UInt32(order), ordering: .relaxed)
        for i in 1..<(1 << order) {
            record(head + i).pointee.geometry.store(UInt32(i), ordering: .relaxed)
            record(head + i).pointee.flags.store(FrameFlags.tail, ordering: .relaxed)
        }
    }

    @inline(__always)
    func checkUnused(_ frame: FrameNumber) {
        #if HMM_INVARIANT_CHECKS
            precondition(record(frame).pointee.refCount.load(ordering: .relaxed) == 0, "a frame in use was handed out")
            precondition(record(frame).pointee.mapCount.load(ordering: .relaxed) == 0, "a mapped frame was handed out")
        #endif
    }

    // MARK: References

    // Who takes or drops a reference counts itself in or out, and those steps commute; who decides by the count, makes
    // it zero or frees the folio, is announced as changing it. So is who only tries to take one: behind the drop of the
    // last one it gets none, and before it, it makes that drop an ordinary one.

    @inline(__always)
    package func refCount(_ head: FrameNumber) -> Int {
        schedulingPoint(.update, on: countKey(head))
        return Int(record(head).pointee.refCount.load(ordering: .acquiring))
    }

    /// Whether the folio is in use at this moment. For who looks while nobody moves: it is not announced.
    @inline(__always)
    package func isUsed(_ head: FrameNumber) -> Bool { record(head).pointee.refCount.load(ordering: .acquiring) > 0 }

    /// One more reference of a folio that the caller already keeps alive. Takes a head or a tail.
    @inline(__always)
    package func get(_ frame: FrameNumber, count: Int32 = 1) {
        let head = head(of: frame)
        schedulingPoint(.load, on: countKey(head))
        let old = record(head).pointee.refCount.add(count, ordering: .relaxed).oldValue
        #if HMM_INVARIANT_CHECKS
            precondition(old > 0, "a reference to a free folio was taken")
        #else
            _ = old
        #endif
    }

    /// A reference to the folio that contains the frame, unless it is free. The caller must check that it is still
    /// the folio it meant.
    package func tryGet(_ frame: FrameNumber) -> Bool {
        // The references are the head's, also if the folio came to be another one while that was announced.
        var head = head(of: frame)
        while true {
            schedulingPoint(.update, on: countKey(head))
            let now = self.head(of: frame)
            if now == head { break }
            head = now
        }
        var count = record(head).pointee.refCount.load(ordering: .relaxed)
        while count > 0 {
            let result = record(head).pointee.refCount.compareExchange(
                expected: count, desired: count + 1, ordering: .acquiringAndReleasing)
            if result.exchanged {
                // A split may have moved the frame to another folio between the two looks.
                if self.head(of: frame) == head { return true }
                put(head)
                return tryGet(frame)
            }
            count = result.original
        }
        return false
    }

    /// Drops references; the last one frees the folio.
    @inline(__always)
    package func put(_ frame: FrameNumber, count: Int32 = 1) {
        let head = head(of: frame)
        if Seam.isWatching { announcePut(head, count) }
        let left = record(head).pointee.refCount.subtract(count, ordering: .acquiringAndReleasing).newValue
        if left == 0 { freeFolio(head) }
        #if HMM_INVARIANT_CHECKS
            precondition(left >= 0, "more references were dropped than taken")
        #endif
    }

    /// Announces that references are to be dropped.
    @inline(never)
    func announcePut(_ head: FrameNumber, _ count: Int32 = 1) {
        let references = record(head)
        func isLast() -> Bool { references.pointee.refCount.load(ordering: .relaxed) == count }
        if !isLast() { schedulingPoint(.load, on: countKey(head)) }
        // It may have become the last one since it was announced.
        if isLast() { schedulingPoint(.update, on: countKey(head)) }
    }

    /// Sets the count to 0 if it is `expected`: nobody can take a reference until `unfreeze`.
    package func freeze(_ head: FrameNumber, expected: Int) -> Bool {
        schedulingPoint(.update, on: countKey(head))
        return record(head).pointee.refCount.compareExchange(
            expected: Int32(expected), desired: 0, ordering: .acquiringAndReleasing
        ).exchanged
    }

    package func unfreeze(_ head: FrameNumber, count: Int) {
        schedulingPoint(.update, on: countKey(head))
        record(head).pointee.refCount.store(Int32(count), ordering: .releasing)
    }

    private func freeFolio(_ head: FrameNumber) {
        let order = order(ofHead: head)
        let flags = flags(head)
        precondition(flags & (FrameFlags.locked | FrameFlags.swapCache) == 0, "a folio was freed in use")
        precondition(unusedMappingCount(head) == 0, "a mapped folio was freed")
        if flags & FrameFlags.hugetlb != 0 {
            resetRecords(head, order: order)
            return freeHugetlbFolio(head, flags: flags)
        }
        if flags & FrameFlags.hasPoison != 0 { return withhold(head, order: order) }
        resetRecords(head, order: order)
        if zone(of: head) > 0 {
            deviceMemory(of: head)!.frameFreed(head, order: order)
        } else {
            system.free(head, order: order)
        }
    }

    private func resetRecords(_ head: FrameNumber, order: Int) {
        for i in 0..<(1 << order) {
            let record = record(head + i)
            // Nobody has a reference, so nobody else changes these: plain loads and stores.
            let flags = record.pointee.flags.load(ordering: .relaxed)
            record.pointee.flags.store(flags & FrameFlags.poisoned, ordering: .relaxed)
            record.pointee.geometry.store(0, ordering: .relaxed)
            let generation = record.pointee.generation.load(ordering: .relaxed)
            record.pointee.generation.store(generation &+ 1, ordering: .releasing)
            record.pointee.swapSlot.store(0, ordering: .relaxed)
        }
        record(head).pointee.mapping.store(0, ordering: .relaxed)
        record(head).pointee.pinCount.store(0, ordering: .relaxed)
    }

    /// Frees a folio with failed pages: those stay out of use for ever.
    private func withhold(_ head: FrameNumber, order: Int) {
        resetRecords(head, order: order)
        for i in 0..<(1 << order) where !hasFlags(head + i, FrameFlags.poisoned) {
            if zone(of: head) == 0 { system.free(head + i, order: 0) }
        }
    }

    /// How often the frame was freed so far: tells a later life from this one.
    package func generation(of frame: FrameNumber) -> UInt32 {
        record(frame).pointee.generation.load(ordering: .acquiring)
    }

    // MARK: Identity

    package func mapping(ofHead head: FrameNumber) -> FrameMapping {
        FrameMapping(raw: record(head).pointee.mapping.load(ordering: .acquiring))
    }
    /// Page offset of the folio within its mapping.
    package func index(ofHead head: FrameNumber) -> UInt64 { record(head).pointee.index.load(ordering: .relaxed) }

    /// Gives a folio its identity. The folio is locked, or nobody else knows it.
    @inline(__always)
    package func setMapping(_ head: FrameNumber, _ mapping: FrameMapping, index: UInt64) {
        record(head).pointee.index.store(index, ordering: .relaxed)
        record(head).pointee.mapping.store(mapping.raw, ordering: .releasing)
    }

    @inline(__always)
    func isAnonymous(_ frame: FrameNumber) -> Bool { mapping(ofHead: head(of: frame)).isAnonymous }
}
