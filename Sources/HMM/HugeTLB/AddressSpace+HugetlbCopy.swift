import Synchronization

// Writes to a hugetlb page without the right, and what happens when the pool has no page for the copy.
//
// Kernel: mm/hugetlb.c hugetlb_wp, unmap_ref_private (6.12).

extension AddressSpace {
    /// The PMD table is locked on entry and unlocked on return.
    func hugetlbWriteProtectFault(
        _ place: HugetlbFault, _ pmd: EntryPointer, _ entry: PageTableEntry
    ) -> HugetlbFaultStep {
        if entry.isUffdWP {
            tables.unlock(pmd)
            return .ended(.busError)
        }
        if place.vma.isShared {
            makeHugetlbWritable(pmd)
            return .ended(.done)
        }
        let head = entry.frame
        // Whether others map the page is looked at with it locked. Two faults that each hold their mutex must not wait
        // for the lock.
        guard frames.tryLockFolio(head) else {
            tables.unlock(pmd)
            return .wait(head, pmd, entry)
        }
        if frames.mappingCount(head) == 1, frames.mapping(ofHead: head).isAnonymous {
            // References do not matter: a copy too many could end a process that had all it was promised.
            if !frames.isAnonExclusive(head) {
                frames.setFlags(head, FrameFlags.anonExclusive)
                moveAnonymous(head, to: place.vma)
            }
            makeHugetlbWritable(pmd)
            frames.unlockFolio(head)
            return .ended(.done)
        }
        frames.get(head)
        tables.unlock(pmd)
        let step = copyHugetlb(place, pmd, entry)
        frames.unlockFolio(head)
        if case .takeFromOthers = step { return step }
        frames.put(head)
        return step
    }

    private func makeHugetlbWritable(_ pmd: EntryPointer) {
        tables.add(pmd, bits: PageTableEntry.writableBit | accessBits(true))
        tables.unlock(pmd)
    }

    /// Replaces a shared page by a copy. The page is locked and referenced; no table is locked.
    private func copyHugetlb(
        _ place: HugetlbFault, _ pmd: EntryPointer, _ entry: PageTableEntry
    ) -> HugetlbFaultStep {
        let vma = place.vma
        let source = entry.frame
        // The promise was used up by the page that is copied now.
        let isOwner = vma.hugetlbReservations != nil
        guard let copy = allocateHugetlb(vma, place.index, forCopy: isOwner) else {
            return isOwner ? .takeFromOthers(source) : .ended(.busError)
        }
        frames.copy(source, to: copy.head, count: hugetlbSpan)
        machine.statistics.copiesOnWrite.add()
        let invalidation = beginInvalidation(.clear, place.pages)
        tables.lock(pmd)
        let now = tables.read(pmd)
        let isUnchanged = now.isHugeLeaf && now.frame == source && !now.isWritable
        if isUnchanged {
            let old = hideLeaf(pmd)
            flushTLB()
            if old.isDirty { frames.setFlags(source, FrameFlags.dirty) }
            frames.removeEntireMapping(source)
            initializeHugetlbAnonymous(vma, copy.head, at: place.start)
            tables.set(pmd, writableEntry(copy.head).leaf())
        }
        tables.unlock(pmd)
        invalidation.end()
        if isUnchanged { frames.put(source) } else { giveBackHugetlb(vma, place.index, copy) }
        return .ended(.done)
    }

    /// Unmaps the page from everybody who was promised nothing: the children of the owner, whose next access to it ends
    /// in SIGBUS. The mmap lock, or the VMA's, is held, but no lock of hugetlb.
    func takeFromOthers(_ place: HugetlbFault, _ head: FrameNumber) {
        let file = place.vma.file!
        let offset = place.vma.index(of: place.start)
        file.mapLock.lockWrite()
        defer { file.mapLock.unlockWrite() }
        for other in file.users where other !== place.vma && other.hugetlbReservations == nil {
            guard let start = other.page(ofIndex: offset) else { continue }
            other.space.loseHugetlb(other, start..<start.advanced(by: hugetlbSpan), head)
        }
    }

    private func loseHugetlb(_ vma: VMA, _ pages: PageRange, _ head: FrameNumber) {
        guard let pmd = tables.entry(pages.lowerBound, .pmd) else { return }
        let invalidation = beginInvalidation(.clear, pages)
        tables.lock(pmd)
        let entry = tables.read(pmd)
        let isOurs = entry.isHugeLeaf && entry.frame == head
        if isOurs {
            // First the mark: who finds nothing mapped must not make zeros of it.
            vma.hasLostHugetlbPage.store(true, ordering: .releasing)
            clearHugetlb(pmd)
        }
        tables.unlock(pmd)
        invalidation.end()
        if isOurs { frames.put(head) }
    }
}
