import Synchronization

// Huge leaves under the operations that change mappings: split into single entries, zapped, protected, moved, copied.
//
// Kernel: mm/huge_memory.c __split_huge_pmd, zap_huge_pmd, change_huge_pmd, move_huge_pmd, copy_huge_pmd (6.12).
// Each answers false when there was no whole leaf to act on any more, or when it had to be split first: the caller
// looks again at the same place.

extension AddressSpace {
    // MARK: Splitting the mapping

    /// Splits the leaf around `page`, which becomes a border of a VMA, into single entries. The folio stays whole.
    ///
    /// The invalidation goes out whether there is a leaf or not, as in Linux, wherever the VMA could have one and the
    /// tables reach down so far. `always` splits also where `page` is aligned.
    func splitHugeLeaf(around page: PageNumber, in vma: VMA, always: Bool = false) {
        guard always || !page.isAligned(order: Geometry.pmdOrder), !vma.isHugetlb,
            let window = vma.hugeWindow(around: page), let pmd = tables.entry(page, .pmd)
        else { return }
        let invalidation = beginInvalidation(.clear, window)
        tables.lock(pmd)
        let entry = tables.read(pmd)
        if !entry.isNone, !entry.isTable { splitLeaf(pmd) }
        tables.unlock(pmd)
        invalidation.end()
    }

    /// Replaces a leaf by a table of single entries with the same rights and marks. The PMD table is locked and the
    /// invalidation begun.
    ///
    /// A leaf of a file's page is not split but removed, as in 6.12.
    ///
    /// With `migrating`, the VMA that the leaf lies in, the new entries are migration entries, which hold no reference
    /// and no mapping; if the folio may be pinned they are plain ones all the same. The caller has a reference then.
    func splitLeaf(_ pmd: EntryPointer, migrating vma: VMA? = nil) {
        // CPUs must not hold both sizes at once, so the leaf goes, everybody forgets it, and then the table comes.
        // Invisible to walkers: they look again under the lock that is held here.
        let old = hideLeaf(pmd)
        flushTLB()
        let table = tables.withdraw(at: pmd)
        let entries = tables.pool.entries(table)
        var single = old
        let counted = countedFolio(old)
        if let counted, old.isPresent, !frames.isAnonymous(counted) {
            // The file's cache has it: a fault finds it again.
            if old.isDirty { markDirty(counted) }
            tables.set(pmd, .empty)
            tables.pool.free(table)
            frames.removeEntireMapping(counted)
            return frames.put(counted)
        }
        if let counted, let vma, let migration = migrationEntry(replacing: old, in: vma) {
            frames.removeEntireMapping(counted)
            frames.put(counted)
            single = migration
        } else if let counted {
            splitCounts(counted, old)
        }
        single = single.leaf(false)
        for i in 0..<Geometry.entriesPerTable {
            let isZero = old.isSpecial && old.isPresent
            let entry = single.naming(isZero ? FrameTable.zeroFrame : old.frame + i)
            tables.set(entries + i, entry)
        }
        // One store: a walker finds the leaf hidden, or the whole table.
        tables.set(pmd, .table(table))
    }

    /// One mapping and reference of the folio become one for each of its pages, each as exclusive as the whole was.
    private func splitCounts(_ head: FrameNumber, _ old: PageTableEntry) {
        if old.isPresent, old.isDirty { markDirty(head) }
        frames.get(head, count: Int32(Geometry.entriesPerTable - 1))
        if frames.isAnonExclusive(head) {
            for i in 1..<Geometry.entriesPerTable { frames.setFlags(head + i, FrameFlags.anonExclusive) }
        }
        frames.splitEntireMapping(head)
    }

    /// Makes a present leaf inaccessible without letting it look empty, and answers it with its final young and dirty
    /// bits. Faults that meet it wait for the table lock and look again. The PMD table is locked.
    func hideLeaf(_ pmd: EntryPointer) -> PageTableEntry {
        let entry = tables.read(pmd)
        guard entry.isPresent else { return entry }
        let bits = pmd.pointee.bitwiseOr(PageTableEntry.protNoneBit, ordering: .acquiringAndReleasing).oldValue
        return PageTableEntry(raw: bits)
    }

    // MARK: Zap

    func zapHugeLeaf(_ vma: VMA, _ step: PageTableCursor.Step) -> Bool {
        let pmd = step.entry
        guard step.pages.pageCount == 1 << Geometry.pmdOrder else {
            splitHugeLeaf(around: step.pages.lowerBound, in: vma, always: true)
            return false
        }
        tables.lock(pmd)
        guard !tables.read(pmd).isNone, !tables.read(pmd).isTable else {
            tables.unlock(pmd)
            return false
        }
        let old = tables.exchange(pmd, .empty)
        if old.isPresent { flushTLB() }
        let frame = countedFolio(old)
        if let frame {
            if old.isPresent, old.isDirty { markDirty(frame) }
            frames.removeEntireMapping(frame)
        }
        let table = tables.withdraw(at: pmd)
        tables.unlock(pmd)
        tables.pool.free(table)
        if let frame { machine.releaseUnmapped(frame) }
        return true
    }

    /// The folio that a huge leaf holds a reference and a mapping of. None for zeros and for migrations.
    private func countedFolio(_ entry: PageTableEntry) -> FrameNumber? {
        if entry.isPresent { return entry.isSpecial ? nil : entry.frame }
        guard let leaf = entry.softLeaf, leaf.kind == .devicePrivate else { return nil }
        return leaf.frame
    }

    // MARK: Protect

    func protectHugeLeaf(_ vma: VMA, _ step: PageTableCursor.Step) -> Bool {
        guard step.pages.pageCount == 1 << Geometry.pmdOrder else {
            splitHugeLeaf(around: step.pages.lowerBound, in: vma, always: true)
            return false
        }
        let pmd = step.entry
        tables.lock(pmd)
        defer { tables.unlock(pmd) }
        let entry = tables.read(pmd)
        guard !entry.isNone, !entry.isTable else { return false }
        if entry.isPresent {
            replacePresent(pmd, entry) { protected($0, vma) }
        } else if let leaf = entry.softLeaf, let changed = protected(leaf, vma) {
            tables.set(pmd, changed.entry)
        }
        return true
    }

    // MARK: Move

    /// Moves a whole leaf to an aligned place, with the table that was deposited for its split; a hugetlb page has
    /// none. False when there is no table to move it to.
    func moveHugeLeaf(_ step: PageTableCursor.Step, to page: PageNumber, hasTable: Bool) -> Bool {
        guard let target = tables.entry(page, making: .pmd) else { return false }
        let source = step.entry
        lockBoth(source, target)
        defer { unlockBoth(source, target) }
        let entry = tables.exchange(source, .empty)
        if hasTable { tables.deposit(tables.withdraw(at: source), at: target) }
        tables.set(target, entry.isPresent ? entry.softDirty() : entry)
        return true
    }

    // MARK: Fork

    /// Shares a leaf with a child. False when it was split, because the folio may be pinned, or is not there any more.
    func forkHugeLeaf(_ vma: VMA, _ copy: VMA, _ step: PageTableCursor.Step) throws(HMMError) -> Bool {
        guard vma.isAnonymous else { return true }
        let child = copy.space
        guard let target = child.tables.entry(step.pages.lowerBound, making: .pmd),
            let table = tables.pool.allocate(.pte)
        else { throw HMMError(.outOfMemory, "no memory for the child's page tables") }
        let source = step.entry
        lockBoth(source, target)
        let entry = tables.read(source)
        var isPinned = false
        let isLeaf = !entry.isNone && !entry.isTable
        if isLeaf { isPinned = !shareHugeLeaf(source, target, entry, child, table) }
        unlockBoth(source, target)
        if isLeaf, !isPinned { return true }
        tables.pool.free(table)
        if isPinned { splitHugeLeaf(around: step.pages.lowerBound, in: vma, always: true) }
        return false
    }

    /// Both PMD tables are locked. False when the folio may be pinned; nothing is changed then.
    private func shareHugeLeaf(
        _ source: EntryPointer, _ target: EntryPointer, _ entry: PageTableEntry, _ child: AddressSpace,
        _ table: PageTableNumber
    ) -> Bool {
        var shared = entry
        if entry.isPresent {
            if !entry.isSpecial {
                let head = entry.frame
                if frames.isAnonExclusive(head), !frames.tryShareExclusive(head) { return false }
                frames.get(head)
                frames.addEntireMapping(head)
            }
            replacePresent(source, entry) { $0.writable(false) }
            shared = tables.read(source).young(false)
        } else if let leaf = entry.softLeaf {
            if leaf.kind == .devicePrivate {
                frames.get(leaf.frame)
                frames.addEntireMapping(leaf.frame)
                frames.clearFlags(leaf.frame, FrameFlags.anonExclusive)
            }
            shared = leaf.withoutWrite(keepsExclusive: false).entry
            if shared != entry { tables.set(source, shared) }
        }
        child.tables.deposit(table, at: target)
        child.tables.set(target, shared)
        return true
    }
}
