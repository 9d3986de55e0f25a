import Synchronization

// Map counts: how many entries name a page, and whether exactly one does ("anon exclusive").
//
// The count of a large folio is kept in three places: per page for entries at PTE level, at the head for entries at
// PMD level, and as a sum at the head, which is what questions about the whole folio read.
//
// Kernel: mm/rmap.c folio_add_anon_rmap_ptes, folio_remove_rmap_ptes (6.12).

extension FrameTable {
    // As with references: who adds or removes a mapping counts itself in or out, and those steps commute; who decides
    // by the count is announced as changing it.

    @inline(__always)
    private func willCount(_ head: FrameNumber) { schedulingPoint(.load, on: mappingKey(head)) }
    @inline(__always)
    private func willJudge(_ head: FrameNumber) { schedulingPoint(.update, on: mappingKey(head)) }

    /// Mappings of all kinds of the folio.
    @inline(__always)
    package func mappingCount(_ head: FrameNumber) -> Int {
        willJudge(head)
        return unusedMappingCount(head)
    }

    /// As `mappingCount`, of a folio that nobody else has a reference of.
    @inline(__always)
    package func unusedMappingCount(_ head: FrameNumber) -> Int {
        let record = record(head)
        return order(ofHead: head) == 0
            ? Int(record.pointee.mapCount.load(ordering: .acquiring))
            : Int(record.pointee.totalMapCount.load(ordering: .acquiring))
    }

    /// Mappings that reach this page: its own entries and those of the whole folio.
    func mappingCount(ofPage frame: FrameNumber) -> Int {
        let head = head(of: frame)
        willJudge(head)
        return Int(record(frame).pointee.mapCount.load(ordering: .acquiring))
            + (order(ofHead: head) > 0 ? Int(record(head).pointee.entireMapCount.load(ordering: .acquiring)) : 0)
    }

    func entireMappingCount(_ head: FrameNumber) -> Int {
        willJudge(head)
        return Int(record(head).pointee.entireMapCount.load(ordering: .acquiring))
    }

    /// One entry at PTE level came to name the page.
    @inline(__always)
    package func addMapping(_ frame: FrameNumber) {
        let head = head(of: frame)
        willCount(head)
        record(frame).pointee.mapCount.add(1, ordering: .relaxed)
        if order(ofHead: head) > 0 { record(head).pointee.totalMapCount.add(1, ordering: .relaxed) }
    }

    /// One entry at PTE level stopped naming the page.
    @inline(__always)
    package func removeMapping(_ frame: FrameNumber) {
        let head = head(of: frame)
        willCount(head)
        let left = record(frame).pointee.mapCount.subtract(1, ordering: .acquiringAndReleasing).newValue
        precondition(left >= 0, "a page lost more mappings than it had")
        if order(ofHead: head) > 0 {
            record(head).pointee.totalMapCount.subtract(1, ordering: .acquiringAndReleasing)
        }
    }

    /// One PMD or PUD leaf came to name the folio.
    package func addEntireMapping(_ head: FrameNumber) {
        willCount(head)
        record(head).pointee.entireMapCount.add(1, ordering: .relaxed)
        record(head).pointee.totalMapCount.add(1, ordering: .relaxed)
    }

    package func removeEntireMapping(_ head: FrameNumber) {
        willCount(head)
        let left = record(head).pointee.entireMapCount.subtract(1, ordering: .acquiringAndReleasing).newValue
        precondition(left >= 0, "a folio lost more mappings than it had")
        record(head).pointee.totalMapCount.subtract(1, ordering: .acquiringAndReleasing)
    }

    /// One PMD leaf becomes one PTE for each page: the same mapping in smaller pieces.
    func splitEntireMapping(_ head: FrameNumber) {
        let pages = pageCount(ofHead: head)
        willCount(head)
        for i in 0..<pages { record(head + i).pointee.mapCount.add(1, ordering: .relaxed) }
        record(head).pointee.totalMapCount.add(Int32(pages - 1), ordering: .relaxed)
        record(head).pointee.entireMapCount.subtract(1, ordering: .acquiringAndReleasing)
    }

    /// Identity, exclusiveness and the first mapping of a page that nobody else knows yet: plain stores.
    @inline(__always)
    func initializeAnonymous(_ frame: FrameNumber, mapping: FrameMapping, index: UInt64) {
        let record = record(frame)
        record.pointee.index.store(index, ordering: .relaxed)
        record.pointee.mapping.store(mapping.raw, ordering: .relaxed)
        record.pointee.mapCount.store(1, ordering: .relaxed)
        record.pointee.flags.store(
            FrameFlags.upToDate | FrameFlags.dirty | FrameFlags.onLRU | FrameFlags.anonExclusive, ordering: .releasing)
    }

    // MARK: Exclusiveness

    @inline(__always)
    func isAnonExclusive(_ frame: FrameNumber) -> Bool { hasFlags(frame, FrameFlags.anonExclusive) }

    /// Clears the mark so that the page may be shared, unless it may be pinned: a pin holder must keep seeing the page
    /// that is mapped. The entry must have been cleared and flushed before, so that no new pin can come by it.
    ///
    /// Kernel: include/linux/rmap.h folio_try_share_anon_rmap_pte (6.12).
    func tryShareExclusive(_ frame: FrameNumber) -> Bool {
        if mayBePinned(frame) { return false }
        clearFlags(frame, FrameFlags.anonExclusive)
        return true
    }
}
