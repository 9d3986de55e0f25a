import Synchronization

// Taking mappings away: what each kind of entry owes when it goes.
//
// Order, for present entries: the entry is cleared, translations are flushed, only then are map count and reference
// dropped. Until the flush a CPU may still write to the page, so until then it must not look unshared or free.
//
// Kernel: mm/memory.c zap_pte_range, zap_present_ptes, zap_nonpresent_ptes; mm/huge_memory.c zap_huge_pmd (6.12).

extension AddressSpace {
    /// Removes every mapping of `pages`, all in one VMA. Tables stay. The invalidation is the caller's; tables are
    /// kept by a lock that the caller holds. With `sparingCopies` a private mapping keeps the pages it has copied.
    func zap(_ vma: VMA, _ pages: PageRange, sparingCopies: Bool = false) {
        if vma.isHugetlb { return zapHugetlb(vma, pages) }
        var cursor = PageTableCursor(tables, pages)
        while let step = cursor.advance() {
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                if !zapHugeLeaf(vma, step) { cursor.restart(at: step.pages.lowerBound) }
            case .pteTable:
                zapTable(step, sparingCopies: sparingCopies)
            }
        }
    }

    /// The CLEAR invalidation and the zap of a part of one VMA: MADV_DONTNEED, truncation.
    func zapNotified(_ vma: VMA, _ pages: PageRange) {
        let invalidation = beginInvalidation(.clear, pages)
        zap(vma, pages)
        invalidation.end()
    }

    /// Unmaps a range of a file from a VMA, found by the file's reverse map, which is locked.
    /// What a private mapping has copied stays.
    func zapFilePages(_ vma: VMA, _ pages: PageRange) {
        let invalidation = beginInvalidation(.clear, pages)
        zap(vma, pages, sparingCopies: true)
        invalidation.end()
    }

    /// Whether the entry is a private mapping's own: an anonymous page, wherever it is.
    private func isCopy(_ entry: PageTableEntry) -> Bool {
        if entry.isPresent { return !entry.isSpecial && frames.isAnonymous(entry.frame) }
        switch entry.softLeaf?.kind {
        case .swap, .devicePrivate, .deviceExclusive: return true
        case .migration: return frames.isAnonymous(entry.frame)
        case .poison, .marker, nil: return false
        }
    }

    private func zapTable(_ step: PageTableCursor.Step, sparingCopies: Bool) {
        let count = step.pages.pageCount
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: count) { old in
            var removed = 0
            var wasPresent = false
            tables.lock(step.entry)
            // A split or a collapse came between: nothing of this table is ours any more.
            guard tables.read(step.parent) == step.seen else { return tables.unlock(step.entry) }
            for i in 0..<count where step.entry[i].load(ordering: .relaxed) != 0 {
                if sparingCopies, isCopy(tables.read(step.entry + i)) { continue }
                let entry = tables.exchange(step.entry + i, .empty)
                wasPresent = wasPresent || entry.isPresent
                old[removed] = entry.raw
                removed += 1
            }
            if wasPresent { flushTLB() }
            for i in 0..<removed { dropMapping(PageTableEntry(raw: old[i])) }
            tables.unlock(step.entry)
            for i in 0..<removed { dropReference(PageTableEntry(raw: old[i])) }
        }
    }

    /// The counts of an entry that was cleared and flushed. The table is locked.
    @inline(__always)
    private func dropMapping(_ entry: PageTableEntry) {
        if entry.isPresent {
            guard !entry.isSpecial else { return }
            let frame = entry.frame
            if entry.isDirty { markDirty(frame) }
            frames.removeMapping(frame)
        } else if let leaf = entry.softLeaf {
            switch leaf.kind {
            // Differs from Linux: in 6.12 an exclusive entry is no mapping, which hides it from reverse-map walks.
            case .devicePrivate, .deviceExclusive: frames.removeMapping(leaf.frame)
            case .swap, .migration, .poison, .marker: break
            }
        }
    }

    /// The reference of an entry that was cleared. No table is locked.
    @inline(__always)
    private func dropReference(_ entry: PageTableEntry) {
        if entry.isPresent {
            if !entry.isSpecial { machine.releaseUnmapped(entry.frame) }
        } else if let leaf = entry.softLeaf {
            switch leaf.kind {
            case .swap: machine.dropSwapEntry(leaf.swapSlot)
            case .devicePrivate, .deviceExclusive: machine.releaseUnmapped(leaf.frame)
            // A migration only forgets the mapping: the migrator finds it gone and frees the page.
            case .migration, .poison, .marker: break
            }
        }
    }

    @inline(__always)
    func markDirty(_ frame: FrameNumber) {
        let head = frames.head(of: frame)
        if !frames.hasFlags(head, FrameFlags.dirty) { frames.setFlags(head, FrameFlags.dirty) }
    }
}
