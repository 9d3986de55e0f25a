import Synchronization

// MADV_PAGEOUT and MADV_FREE: pages leave at the request of the program.
//
// Kernel: mm/madvise.c madvise_cold_or_pageout_pte_range, madvise_free_pte_range; mm/vmscan.c shrink_folio_list;
// mm/rmap.c try_to_unmap_one (6.12).

extension AddressSpace {
    /// Moves the pages of the range to swap, as far as they can: present ones that nobody else maps. Never fails for
    /// lack of success.
    func pageOut(_ vma: VMA, _ pages: PageRange) {
        var cursor = PageTableCursor(tables, pages)
        while let step = cursor.advance() {
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                if pageOutHugeLeaf(vma, step) { cursor.restart(at: step.pages.lowerBound) }
            case .pteTable:
                pageOutTable(vma, step)
            }
        }
    }

    private func pageOutTable(_ vma: VMA, _ step: PageTableCursor.Step) {
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: step.pages.pageCount) { isolated in
            var count = 0
            var i = 0
            tables.lock(step.entry)
            while i < step.pages.pageCount, tables.read(step.parent) == step.seen {
                let entry = tables.read(step.entry + i)
                guard entry.isPresent, !entry.isSpecial, !frames.isDeviceFrame(entry.frame) else {
                    i += 1
                    continue
                }
                let head = frames.head(of: entry.frame)
                let covered = coveredPages(head, step.entry + i, limit: step.pages.pageCount - i)
                if covered < frames.pageCount(ofHead: head) {
                    // Only a part of a large folio is asked for: it is split, if nobody shares it, and looked at again.
                    if !splitForPageOut(head, step.entry) { i += 1 }
                    continue
                }
                if isolate(head) {
                    isolated[count] = head
                    count += 1
                }
                i += covered
            }
            tables.unlock(step.entry)
            for j in 0..<count { machine.reclaim(isolated[j]) }
        }
    }

    /// Entries from `pte` on that map the folio's pages in order, beginning with its head.
    private func coveredPages(_ head: FrameNumber, _ pte: EntryPointer, limit: Int) -> Int {
        let size = frames.pageCount(ofHead: head)
        var count = 0
        while count < min(size, limit) {
            let entry = tables.read(pte + count)
            guard entry.isPresent, !entry.isSpecial, entry.frame == head + count else { break }
            count += 1
        }
        return max(1, count)
    }

    /// Splits a large folio with the table unlocked meanwhile. Answers whether it was split. The table is locked on
    /// entry and on return.
    private func splitForPageOut(_ head: FrameNumber, _ pte: EntryPointer) -> Bool {
        guard !machine.isLikelyShared(head), frames.tryLockFolio(head) else { return false }
        frames.get(head)
        tables.unlock(pte)
        let isSplit = machine.splitFolio(head)
        frames.unlockFolio(head)
        frames.put(head)
        tables.lock(pte)
        return isSplit
    }

    /// Takes the folio off the list of reclaim, with a reference, if it is there and mapped only here.
    private func isolate(_ head: FrameNumber) -> Bool {
        guard frames.isOnLRU(head),
            frames.mappingCount(head) == frames.pageCount(ofHead: head)
        else { return false }
        frames.get(head)
        frames.takeOffLRU(head)
        return true
    }

    /// Answers true when the leaf was split into single folios, which are to be looked at one by one.
    private func pageOutHugeLeaf(_ vma: VMA, _ step: PageTableCursor.Step) -> Bool {
        let pmd = step.entry
        tables.lock(pmd)
        let entry = tables.read(pmd)
        guard entry.isHugeLeaf, !entry.isSpecial, !frames.isDeviceFrame(entry.frame),
            !machine.isLikelyShared(entry.frame)
        else {
            tables.unlock(pmd)
            return false
        }
        let head = entry.frame
        if step.pages.pageCount < 1 << Geometry.pmdOrder {
            guard frames.tryLockFolio(head) else {
                tables.unlock(pmd)
                return false
            }
            frames.get(head)
            tables.unlock(pmd)
            let isSplit = machine.splitFolio(head)
            frames.unlockFolio(head)
            frames.put(head)
            return isSplit
        }
        let isIsolated = frames.isOnLRU(head)
        if isIsolated {
            frames.get(head)
            frames.takeOffLRU(head)
        }
        tables.unlock(pmd)
        if isIsolated { machine.reclaim(head) }
        return false
    }

    /// MADV_FREE: clean pages may be dropped instead of swapped, swapped ones are dropped at once.
    func freeLazily(_ vma: VMA, _ pages: PageRange) {
        let invalidation = beginInvalidation(.clear, pages)
        var cursor = PageTableCursor(tables, pages)
        while let step = cursor.advance() {
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                splitHugeLeaf(around: step.pages.lowerBound, in: vma, always: true)
                if tables.read(step.entry).isTable { cursor.restart(at: step.pages.lowerBound) }
            case .pteTable: freeTableLazily(step)
            }
        }
        flushTLB()
        invalidation.end()
    }

    private func freeTableLazily(_ step: PageTableCursor.Step) {
        tables.lock(step.entry)
        defer { tables.unlock(step.entry) }
        guard tables.read(step.parent) == step.seen else { return }
        for i in 0..<step.pages.pageCount {
            let pte = step.entry + i
            let entry = tables.read(pte)
            if let leaf = entry.softLeaf, leaf.kind == .swap {
                _ = tables.exchange(pte, .empty)
                machine.dropSwapEntry(leaf.swapSlot)
            } else if entry.isPresent, !entry.isSpecial, !frames.isDeviceFrame(entry.frame),
                !frames.isLarge(entry.frame), makeClean(entry.frame)
            {
                replacePresent(pte, entry) { $0.young(false).dirty(false) }
                frames.setFlags(entry.frame, FrameFlags.lazyFree)
            }
        }
    }

    /// Says that the page has nothing to be written, unless others use it. Not while reclaim has it locked: that relies
    /// on what it found, and a slot that is not written has the bytes of its former life. The table is locked.
    private func makeClean(_ frame: FrameNumber) -> Bool {
        guard frames.mappingCount(frame) == 1, frames.tryLockFolio(frame) else { return false }
        defer { frames.unlockFolio(frame) }
        machine.tryFreeSwap(frame)
        guard frames.mappingCount(frame) == 1, !frames.isInSwapCache(frame) else { return false }
        frames.clearFlags(frame, FrameFlags.dirty)
        return true
    }
}
