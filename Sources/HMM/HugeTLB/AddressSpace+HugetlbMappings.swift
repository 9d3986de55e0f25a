import Synchronization

// Hugetlb mappings under the operations that change them: unmapped, protected, copied for a child, cut out of their
// file.
//
// Kernel: mm/hugetlb.c __unmap_hugepage_range, hugetlb_change_protection, copy_hugetlb_page_range; fs/hugetlbfs/inode.c
// hugetlbfs_punch_hole (6.12).

extension AddressSpace {
    // MARK: Zap

    /// Clears a present leaf and gives up its mapping. Answers the folio, whose reference the caller drops with the
    /// table unlocked. The PMD table is locked and the invalidation begun.
    @inline(__always)
    func clearHugetlb(_ pmd: EntryPointer) {
        let old = tables.exchange(pmd, .empty)
        flushTLB()
        if old.isDirty { frames.setFlags(old.frame, FrameFlags.dirty) }
        frames.removeEntireMapping(old.frame)
    }

    /// Removes the mappings of `pages`, whole huge pages. Faults wait meanwhile, because a promise that is renewed is
    /// good only when its page is back in the pool.
    func zapHugetlb(_ vma: VMA, _ pages: PageRange) {
        vma.hugetlbLock.lockWrite()
        for start in stride(from: pages.lowerBound, to: pages.upperBound, by: hugetlbSpan) {
            zapHugetlbPage(vma, start)
        }
        vma.hugetlbLock.unlockWrite()
    }

    private func zapHugetlbPage(_ vma: VMA, _ start: PageNumber) {
        guard let pmd = tables.entry(start, .pmd) else { return }
        tables.lock(pmd)
        let entry = tables.read(pmd)
        if entry.isPresent { clearHugetlb(pmd) } else if !entry.isNone { _ = tables.exchange(pmd, .empty) }
        tables.unlock(pmd)
        guard entry.isPresent else { return }
        let head = entry.frame
        if let own = vma.hugetlbReservations, frames.mappingCount(head) == 0, frames.mapping(ofHead: head).isAnonymous {
            // The owner was the last to let go: the place gets its promise back, or somebody would take the page.
            frames.setFlags(head, FrameFlags.restoresReserve)
            own.set(vma.hugetlbIndex(of: start), .reserved)
        }
        frames.put(head)
    }

    // MARK: Protect

    /// Private pages are not made writable here, not even exclusive ones: the next write fault does.
    func protectHugetlb(_ vma: VMA, _ pages: PageRange) {
        vma.hugetlbLock.lockWrite()
        for start in stride(from: pages.lowerBound, to: pages.upperBound, by: hugetlbSpan) {
            guard let pmd = tables.entry(start, .pmd) else { continue }
            tables.lock(pmd)
            let entry = tables.read(pmd)
            if entry.isPresent {
                replacePresent(pmd, entry) { hugetlbEntry($0, vma) }
            } else if let leaf = entry.softLeaf, let changed = protected(leaf, vma) {
                tables.set(pmd, changed.entry)
            }
            tables.unlock(pmd)
        }
        vma.hugetlbLock.unlockWrite()
    }

    private func hugetlbEntry(_ entry: PageTableEntry, _ vma: VMA) -> PageTableEntry {
        guard !vma.flags.isDisjoint(with: .access) else { return entry.writable(false).protNone() }
        return entry.protNone(false).writable(vma.isShared && vma.isWritable && !entry.isUffdWP)
    }

    // MARK: Fork

    /// Shares the pages of a private mapping with a child, which is promised nothing. Shared memory starts empty there.
    func forkHugetlb(_ vma: VMA, _ copy: VMA) throws(HMMError) {
        guard vma.anonVMA != nil, !vma.isShared else { return }
        let invalidation = beginInvalidation(.clear, vma.pages)
        var failure: HMMError?
        do throws(HMMError) {
            for start in stride(from: vma.pages.lowerBound, to: vma.pages.upperBound, by: hugetlbSpan) {
                try forkHugetlbPage(vma, copy, start)
            }
        } catch {
            failure = error
        }
        flushTLB()
        invalidation.end()
        if let failure { throw failure }
    }

    private func forkHugetlbPage(_ vma: VMA, _ copy: VMA, _ start: PageNumber) throws(HMMError) {
        guard let source = tables.entry(start, .pmd), !tables.read(source).isNone else { return }
        guard let target = copy.space.tables.entry(start, making: .pmd) else {
            throw HMMError(.outOfMemory, "no memory for the child's page tables")
        }
        lockBoth(source, target)
        let pinned = shareHugetlb(vma, copy, source, target)
        unlockBoth(source, target)
        guard let pinned else { return }
        defer { frames.put(pinned) }
        let index = copy.hugetlbIndex(of: start)
        guard let new = copy.space.allocateHugetlb(copy, index) else {
            throw HMMError(.noSpace, "the hugetlb pool has no page for the copy of a pinned one")
        }
        // Only this thread changes mappings here, and the page cannot be replaced while it may be pinned.
        frames.copy(pinned, to: new.head, count: hugetlbSpan)
        copy.space.initializeHugetlbAnonymous(copy, new.head, at: start)
        copy.space.tables.lock(target)
        copy.space.tables.set(target, writableEntry(new.head).writable(copy.isWritable).leaf())
        copy.space.tables.unlock(target)
    }

    /// Both PMD tables are locked. Answers a page that may be pinned, with a reference: it is not shared but copied.
    private func shareHugetlb(
        _ vma: VMA, _ copy: VMA, _ source: EntryPointer, _ target: EntryPointer
    ) -> FrameNumber? {
        let entry = tables.read(source)
        if let leaf = entry.softLeaf {
            let shared = leaf.withoutWrite(keepsExclusive: false)
            if leaf.kind == .migration, shared != leaf { tables.set(source, shared.entry) }
            copy.space.tables.set(target, shared.entry.uffdWP(false))
            return nil
        }
        guard entry.isPresent else { return nil }
        let head = entry.frame
        if frames.isAnonExclusive(head), !frames.tryShareExclusive(head) {
            frames.get(head)
            return head
        }
        frames.get(head)
        frames.addEntireMapping(head)
        replacePresent(source, entry) { $0.writable(false) }
        copy.space.tables.set(target, tables.read(source).uffdWP(false))
        return nil
    }

    // MARK: Holes

    /// Takes a range out of a file of huge pages: whole ones with their mappings and promises; of the others the bytes
    /// are cleared. No lock is held.
    func removeHugetlb(_ file: FileMapping, _ indices: Range<Int>) {
        let first = (indices.lowerBound + hugetlbSpan - 1) / hugetlbSpan
        let end = indices.upperBound / hugetlbSpan
        guard first <= end else { return clearHugetlb(file, indices) }
        clearHugetlb(file, indices.lowerBound..<first * hugetlbSpan)
        for page in first..<end { removeHugetlbPage(file, page) }
        clearHugetlb(file, end * hugetlbSpan..<indices.upperBound)
    }

    private func removeHugetlbPage(_ file: FileMapping, _ page: Int) {
        let mutex = frames.hugetlb.faultMutex(file: file.id, page: page)
        mutex.lock()
        defer { mutex.unlock() }
        let slot = page * hugetlbSpan
        if let head = file.cache.get(slot) {
            unmapHugetlb(file, slot)
            frames.lockFolio(head)
            let isRemoved = file.cache.replace(slot, .frame(head), with: .empty)
            frames.leaveFile(head)
            frames.unlockFolio(head)
            frames.put(head, count: isRemoved ? 2 : 1)
        }
        file.hugetlbReservations?.remove(page)
    }

    private func unmapHugetlb(_ file: FileMapping, _ slot: Int) {
        file.mapLock.lockWrite()
        defer { file.mapLock.unlockWrite() }
        for vma in file.users {
            guard let start = vma.page(ofIndex: UInt64(slot)) else { continue }
            let space = vma.space
            let invalidation = space.beginInvalidation(.clear, start..<start.advanced(by: hugetlbSpan))
            space.zapHugetlbPage(vma, start)
            invalidation.end()
        }
    }

    /// Clears the bytes of a part of one huge page, if it is there. CPUs may be writing beside.
    private func clearHugetlb(_ file: FileMapping, _ indices: Range<Int>) {
        guard !indices.isEmpty else { return }
        let slot = indices.lowerBound / hugetlbSpan * hugetlbSpan
        guard let head = file.cache.get(slot) else { return }
        frames.lockFolio(head)
        for index in indices {
            let words = frames.words(of: head + (index - slot))
            for i in 0..<Geometry.wordsPerPage { words[i].store(0, ordering: .relaxed) }
        }
        frames.unlockFolio(head)
        frames.put(head)
    }
}
