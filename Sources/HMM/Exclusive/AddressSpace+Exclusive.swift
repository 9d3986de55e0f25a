import Synchronization

// Making a page exclusive to a device, one page at a time.
//
// Only anonymous pages, because the states of a file page (write-back, truncation) would have to know of it. Only
// writable ones, because a writable anonymous entry is the only mapping of its page: one entry is changed, and no
// reverse map is needed. Only 4 KiB, on purpose: two atomics on different pages never disturb each other.
//
// Source: "Re: [PATCH v1] mm: fixes for device-exclusive entries", Jan 2025, and the series that came of it.
// Locks: mmap (the caller's, for reading) > folio > the invalidation > PTE table.

extension AddressSpace {
    /// Makes the page exclusive to `owner`: faults it in writable, takes it from whoever else has it exclusively, and
    /// replaces its entry. Every mirror but the owner's is told to drop the page.
    ///
    /// The mmap lock is held. The driver reads the sequence of its interval before it calls, and checks it under its
    /// own lock before it stores the mapping.
    ///
    /// - Throws: `.badAddress` when nothing is mapped or the mapping is not writable; `.notSupported` when the page is
    ///   not anonymous, or a hugetlb page; `.outOfMemory`.
    public func makeExclusive(_ page: PageNumber, owner: NotifierOwner) throws(HMMError) -> ExclusiveGrant {
        while true {
            if let grant = try attemptExclusive(page, owner: owner) { return grant }
        }
    }

    /// One attempt. Nil: the entry changed between the look and the lock, and the caller tries again.
    public func attemptExclusive(_ page: PageNumber, owner: NotifierOwner) throws(HMMError) -> ExclusiveGrant? {
        let frame = try reference(page, [.write, .splitHuge])
        let head = frames.head(of: frame)
        guard frames.mapping(ofHead: head).isAnonymous, !frames.hasFlags(head, FrameFlags.hugetlb) else {
            frames.put(frame)
            throw HMMError(.notSupported, "only anonymous pages of ordinary size can be exclusive")
        }
        frames.lockFolio(head)
        let isSame = frames.head(of: frame) == head
        if isSame {
            // Before the table lock; the maker itself is told apart by its owner token, or each attempt would void the
            // sequence that its driver has just read.
            let invalidation = beginInvalidation(.exclusive, page..<page.advanced(by: 1), owner: owner)
            let isMade = convert(page, frame)
            invalidation.end()
            if isMade {
                exclusiveObserver?.exclusiveGranted(page, to: owner)
                return ExclusiveGrant(page: page, frame: frame, by: self)
            }
        }
        frames.unlockFolio(head)
        frames.put(frame)
        return nil
    }

    /// Replaces the entry, if it still maps the frame writable.
    private func convert(_ page: PageNumber, _ frame: FrameNumber) -> Bool {
        guard let pte = tables.lockPTE(page) else { return false }
        defer { tables.unlock(pte) }
        let entry = tables.read(pte)
        guard entry.isWritable, entry.isAccessible, entry.frame == frame else { return false }
        precondition(!entry.isUffdWP, "a writable entry is write-protected")
        replaceByExclusive(pte, frame)
        return true
    }

    /// The table is locked. The entry keeps its reference and its mapping, so the reverse map goes on finding it.
    package func replaceByExclusive(_ pte: EntryPointer, _ frame: FrameNumber) {
        let old = tables.exchange(pte, .empty)
        flushTLB()
        if old.isDirty { markDirty(frame) }
        tables.set(pte, SoftLeaf.deviceExclusive(frame, write: old.isWritable, tracking: old.trackingBits).entry)
    }

    public func restoreExclusive(_ pages: PageRange) throws(HMMError) {
        for page in pages where leaf(page)?.0.softLeaf?.kind == .deviceExclusive {
            release(try reference(page, []), [])
        }
    }
}

extension AddressSpace: ExclusiveGranting {}
