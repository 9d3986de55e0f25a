import Synchronization

// mprotect.
//
// Kernel: mm/mprotect.c do_mprotect_pkey, mprotect_fixup, change_protection, change_pte_range (6.12).

extension AddressSpace {
    /// Gives `pages` the rights `protection`, VMA by VMA in the order of addresses.
    ///
    /// - Throws: `.outOfMemory` at the first hole (parts before it are done), or when a mapping cannot be split;
    ///   `.invalidArgument` for an empty range or one that cuts a hugetlb page, unless it has the rights already.
    public func protect(_ pages: PageRange, _ protection: Protection) throws(HMMError) {
        guard !pages.isEmpty, pages.upperBound <= Geometry.endPage else {
            throw HMMError(.invalidArgument, "the range is empty or lies outside the address space")
        }
        lockForWriting()
        defer { unlockForWriting() }
        var page = pages.lowerBound
        while page < pages.upperBound {
            guard let vma = vmas.find(page) else {
                throw HMMError(.outOfMemory, "a part of the range is not mapped")
            }
            let part = pages.intersection(vma.pages)!.clamped(to: page..<pages.upperBound)
            page = part.upperBound
            try protect(vma, part, protection)
        }
    }

    private func protect(_ vma: VMA, _ pages: PageRange, _ protection: Protection) throws(HMMError) {
        var flags = vma.flags.subtracting(.access).union(VMAFlags(protection))
        guard flags != vma.flags else { return }
        if flags.contains(.write) {
            if vma.flags.isDisjoint(with: [.account, .write, .hugetlb, .shared]) { flags.insert(.account) }
        } else if vma.isAnonymous, vma.anonVMA == nil {
            flags.remove(.account)
        }
        let changed = try modify(vma, pages, flags: flags)
        markWrite(changed)
        changed.flags = flags
        changeProtection(changed, pages)
    }

    /// Makes the entries of `pages` obey the VMA's new rights.
    ///
    /// Nobody is told where no tables exist: no mirror can hold anything there.
    private func changeProtection(_ vma: VMA, _ pages: PageRange) {
        guard let start = firstPopulated(pages) else { return }
        let invalidation = beginInvalidation(
            .protectionVMA, start..<pages.upperBound, newProtection: vma.flags.protection)
        if vma.isHugetlb {
            protectHugetlb(vma, pages)
        } else {
            var cursor = PageTableCursor(tables, pages)
            while let step = cursor.advance() {
                switch step.kind {
                case .hole, .pudLeaf: continue
                case .pteTable: protectTable(vma, step)
                case .pmdLeaf:
                    if !protectHugeLeaf(vma, step) { cursor.restart(at: step.pages.lowerBound) }
                }
            }
        }
        flushTLB()
        invalidation.end()
    }

    /// The first page of the range with a table at PUD level below it.
    private func firstPopulated(_ pages: PageRange) -> PageNumber? {
        var page = pages.lowerBound
        while page < pages.upperBound {
            if let pud = tables.entry(page, .pud), !tables.read(pud).isNone { return page }
            page = page.advanced(by: 1).alignedUp(order: PageLevel.pud.order)
        }
        return nil
    }

    private func protectTable(_ vma: VMA, _ step: PageTableCursor.Step) {
        tables.lock(step.entry)
        defer { tables.unlock(step.entry) }
        guard tables.read(step.parent) == step.seen else { return }
        for i in 0..<step.pages.pageCount {
            let pte = step.entry + i
            let entry = tables.read(pte)
            if entry.isPresent {
                replacePresent(pte, entry) { protected($0, vma) }
            } else if let leaf = entry.softLeaf, let changed = protected(leaf, vma) {
                tables.set(pte, changed.entry)
            }
        }
    }

    /// Replaces a present entry whose young and dirty bits may change at any time.
    @inline(__always)
    func replacePresent(
        _ slot: EntryPointer, _ entry: PageTableEntry, by change: (PageTableEntry) -> PageTableEntry
    ) {
        var old = entry
        while true {
            let new = change(old)
            if new == old { return }
            let result = slot.pointee.compareExchange(
                expected: old.raw, desired: new.raw, ordering: .acquiringAndReleasing)
            if result.exchanged { return }
            old = PageTableEntry(raw: result.original)
        }
    }

    /// The present entry under the VMA's rights.
    ///
    /// A gained right to write is given at once where a write fault would give it without a copy: to pages of shared
    /// memory, and to anonymous pages that only this entry names.
    @inline(__always)
    func protected(_ entry: PageTableEntry, _ vma: VMA) -> PageTableEntry {
        guard !vma.flags.isDisjoint(with: .access) else { return entry.writable(false).protNone() }
        let readable = entry.protNone(false)
        guard vma.isWritable, !entry.isUffdWP, !entry.isSpecial else { return readable.writable(false) }
        if vma.isShared { return readable.writable() }
        let isExclusive = frames.isAnonExclusive(entry.frame)
        return readable.writable(isExclusive)
    }

    /// The non-present entry under the VMA's rights, or nil when it stays. Rights only shrink: a leaf that could be
    /// written is never made so again.
    func protected(_ leaf: SoftLeaf, _ vma: VMA) -> SoftLeaf? {
        switch leaf.kind {
        case .migration:
            guard leaf.isWriteKind, !vma.isWritable || !vma.isShared else { return nil }
            return leaf.withoutWrite(keepsExclusive: frames.isAnonymous(leaf.frame))
        case .devicePrivate:
            return leaf.isWriteKind ? leaf.withoutWrite(keepsExclusive: true) : nil
        case .deviceExclusive:
            guard machine.profile.exclusiveRemembersWrite, leaf.isWriteKind else { return nil }
            return leaf.withoutWrite(keepsExclusive: true)
        case .swap, .poison, .marker: return nil
        }
    }
}
