import Synchronization

// Reclaim of one folio: unmapped everywhere, written to swap, freed.
//
// Kernel: mm/vmscan.c shrink_folio_list, mm/rmap.c try_to_unmap_one, mm/swap_state.c add_to_swap, mm/shmem.c
// shmem_writepage (6.12).

extension Machine {
    /// Tries to free a folio that the caller has isolated, with the reference of the isolation. What cannot go stays
    /// where it is.
    func reclaim(_ head: FrameNumber) {
        defer {
            frames.putOnLRU(head)
            frames.put(head)
        }
        guard frames.tryLockFolio(head) else { return }
        defer { frames.unlockFolio(head) }
        guard !frames.mayBePinned(head) else { return }
        if frames.order(ofHead: head) > 0 {
            reclaimLarge(head)
        } else if frames.mapping(ofHead: head).isFile {
            reclaimShared(head)
        } else {
            _ = reclaimAnonymous(head)
        }
    }

    /// A large folio goes to swap as a whole, to slots in a row, and leaves as many swap entries. Where swap has no
    /// such slots, and for shared memory, it is split and its pages go one by one; as well if a part of it was unmapped
    /// once, which 6.12 takes for a part that can be freed.
    private func reclaimLarge(_ head: FrameNumber) {
        guard isFullyExplained(head, callers: 1) else { return }
        let goesWhole = frames.mapping(ofHead: head).isAnonymous && !frames.hasFlags(head, FrameFlags.wasPartlyMapped)
        if goesWhole, reclaimAnonymous(head) { return }
        let count = frames.pageCount(ofHead: head)
        guard splitFolio(head) else { return }
        let mapping = frames.mapping(ofHead: head)
        let index = frames.index(ofHead: head)
        for i in 1..<count {
            // Pages that nothing maps were freed by the split, and may be something else by now.
            guard frames.tryGet(head + i) else { continue }
            let isStillOurs =
                frames.mapping(ofHead: head + i) == mapping && frames.index(ofHead: head + i) == index + UInt64(i)
                && !frames.isLarge(head + i)
            if isStillOurs { reclaim(head + i) } else { frames.put(head + i) }
        }
        if mapping.isFile { reclaimShared(head) } else { _ = reclaimAnonymous(head) }
    }

    /// False when there is no place in swap. The folio is locked, and the caller has one reference.
    private func reclaimAnonymous(_ head: FrameNumber) -> Bool {
        guard addToSwap(head) else { return false }
        guard unmapForReclaim(head) else {
            tryFreeSwap(head)
            return true
        }
        let count = frames.pageCount(ofHead: head)
        if frames.hasFlags(head, FrameFlags.dirty) {
            // Clean before it is copied: who writes to it meanwhile, by a reference, makes it dirty again.
            frames.clearFlags(head, FrameFlags.dirty)
            for i in 0..<count { swap.write(swapSlot(of: head + i), from: frames.bytes(of: head + i)) }
            statistics.swapOuts.add(UInt64(count))
        }
        // Ours and the cache's. Anybody else's keeps the page in the cache, where a fault finds it.
        guard frames.freeze(head, expected: 1 + count) else {
            tryFreeSwap(head)
            return true
        }
        if frames.hasFlags(head, FrameFlags.dirty) {
            frames.unfreeze(head, count: 1 + count)
            return true
        }
        forgetSwapCache(head)
        frames.unfreeze(head, count: 1)
        return true
    }

    /// Gives the folio a slot a page and puts it into the swap cache, if it is not there yet.
    package func addToSwap(_ head: FrameNumber) -> Bool {
        if frames.isInSwapCache(head) { return true }
        let count = frames.pageCount(ofHead: head)
        guard let first = swap.allocate(count, caching: head) else { return false }
        frames.get(head, count: Int32(count))
        for i in 0..<count {
            frames.record(head + i).pointee.swapSlot.store(first.raw + UInt32(i), ordering: .relaxed)
        }
        frames.joinSwapCache(head, FrameFlags.dirty)
        return true
    }

    /// A page of shared memory: its slot in the file takes the swap entry. A page that nobody wrote is just dropped: it
    /// is what the file has there, zeros.
    private func reclaimShared(_ head: FrameNumber) {
        guard let file = files.find(frames.mapping(ofHead: head).id), unmapForReclaim(head) else { return }
        let index = Int(frames.index(ofHead: head))
        guard frames.hasFlags(head, FrameFlags.dirty) else {
            guard frames.freeze(head, expected: 2) else { return }
            // Who had a reference may have written to it since the first look.
            let isClean = !frames.hasFlags(head, FrameFlags.dirty)
            let isDropped = isClean && file.cache.replace(index, .frame(head), with: .empty)
            return frames.unfreeze(head, count: isDropped ? 1 : 2)
        }
        guard let slot = swap.allocate() else { return }
        guard frames.freeze(head, expected: 2) else { return swap.put(slot) }
        swap.write(slot, from: frames.bytes(of: head))
        let isReplaced = file.cache.replace(index, .frame(head), with: .swap(slot))
        frames.unfreeze(head, count: isReplaced ? 1 : 2)
        if isReplaced { statistics.swapOuts.add() } else { swap.put(slot) }
    }

    /// Replaces all entries that name the folio by what they need to find it again: a swap entry for an anonymous page,
    /// nothing for a page of a file. False when some are left, because a page may be pinned.
    package func unmapForReclaim(_ head: FrameNumber) -> Bool {
        var isUnmapped = true
        walkReverseMap(head) { vma, pages, offset in
            isUnmapped = vma.space.unmapForReclaim(pages, head + offset)
            // Who is not looked at is not told, so the look ends when nothing maps the folio any more.
            return isUnmapped && frames.mappingCount(head) > 0
        }
        return isUnmapped && frames.mappingCount(head) == 0
    }

    /// Whether more than one mapping of the folio may exist: exact for small folios and whole mappings, by a look at
    /// the first page for the rest.
    ///
    /// Kernel: include/linux/mm.h folio_likely_mapped_shared (6.12).
    func isLikelyShared(_ head: FrameNumber) -> Bool {
        let count = frames.mappingCount(head)
        let size = frames.pageCount(ofHead: head)
        guard size > 1, count > 1 else { return count > 1 }
        if frames.entireMappingCount(head) > 0 || count > size { return true }
        return frames.mappingCount(ofPage: head) > 1
    }
}

extension AddressSpace {
    /// Replaces the entries of `pages` that name the frames from `first` on. False when one has to stay.
    fileprivate func unmapForReclaim(_ pages: PageRange, _ first: FrameNumber) -> Bool {
        let invalidation = beginInvalidation(.clear, pages)
        var cursor = PageTableCursor(tables, pages)
        var isDone = true
        while isDone, let step = cursor.advance() {
            let frame = first + pages.lowerBound.distance(to: step.pages.lowerBound)
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                // Swap entries are single ones, so the leaf is split first.
                if splitLeaf(step.entry, ifNaming: frame) { cursor.restart(at: step.pages.lowerBound) }
            case .pteTable:
                switch unmapRun(step, frame) {
                case true?: continue
                case false?: isDone = false
                case nil: cursor.restart(at: step.pages.lowerBound)
                }
            }
        }
        invalidation.end()
        return isDone
    }

    /// Whether there is a table now.
    private func splitLeaf(_ pmd: EntryPointer, ifNaming head: FrameNumber) -> Bool {
        tables.lock(pmd)
        defer { tables.unlock(pmd) }
        let entry = tables.read(pmd)
        if entry.isTable { return true }
        guard entry.isHugeLeaf, !entry.isSpecial, entry.frame == head else { return false }
        splitLeaf(pmd)
        return true
    }

    /// The entries of one table. False when one had to stay, nil when the table is gone.
    private func unmapRun(_ step: PageTableCursor.Step, _ frame: FrameNumber) -> Bool? {
        tables.lock(step.entry)
        defer { tables.unlock(step.entry) }
        guard tables.read(step.parent) == step.seen else { return nil }
        for i in 0..<step.pages.pageCount where !unmapEntry(step.entry + i, frame + i) { return false }
        return true
    }

    private func unmapEntry(_ pte: EntryPointer, _ frame: FrameNumber) -> Bool {
        let seen = tables.read(pte)
        let isPresent = seen.isPresent && !seen.isSpecial
        guard seen.frame == frame, isPresent || seen.softLeaf?.kind == .deviceExclusive else { return true }
        let old = tables.exchange(pte, .empty)
        if isPresent { flushTLB() }
        if frames.isAnonymous(frame) {
            let wasExclusive = frames.isAnonExclusive(frame)
            if wasExclusive, !frames.tryShareExclusive(frame) {
                tables.set(pte, old)
                return false
            }
            let slot = machine.swapSlot(of: frame)
            machine.swap.get(slot)
            tables.set(pte, SoftLeaf.swap(slot, exclusive: wasExclusive, tracking: old.trackingBits).entry)
        }
        if isPresent, old.isDirty { markDirty(frame) }
        frames.removeMapping(frame)
        frames.put(frame)
        return true
    }
}
