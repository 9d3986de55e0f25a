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
            frames.setFlags(head, FrameFlags.onLRU)
            frames.put(head)
        }
        guard frames.tryLockFolio(head) else { return }
        defer { frames.unlockFolio(head) }
        if frames.order(ofHead: head) > 0 { return reclaimLarge(head) }
        if frames.mapping(ofHead: head).isFile { return reclaimShared(head) }
        reclaimAnonymous(head)
    }

    private func reclaimAnonymous(_ head: FrameNumber) {
        guard addToSwap(head) else { return }
        guard unmapForReclaim(head) else { return tryFreeSwap(head) }
        let slot = SwapSlot(frames.record(head).pointee.swapSlot.load(ordering: .relaxed))
        if frames.hasFlags(head, FrameFlags.dirty) {
            swap.write(slot, from: frames.bytes(of: head))
            frames.clearFlags(head, FrameFlags.dirty)
            statistics.swapOuts.add()
        }
        // Ours and the cache's. Anybody else's keeps the page in the cache, where a fault finds it.
        guard frames.freeze(head, expected: 2) else { return }
        frames.clearFlags(head, FrameFlags.swapCache)
        frames.record(head).pointee.swapSlot.store(0, ordering: .relaxed)
        swap.removeCache(slot)
        swap.put(slot)
        frames.unfreeze(head, count: 1)
    }

    /// Gives the folio a slot and puts it into the swap cache, if it is not there yet.
    private func addToSwap(_ head: FrameNumber) -> Bool {
        if frames.hasFlags(head, FrameFlags.swapCache) { return true }
        guard let slot = swap.allocate() else { return false }
        let isFirst = swap.insertCache(slot, head)
        precondition(isFirst, "a new swap slot was cached")
        swap.put(slot)  // the count of the allocation; the cache has its own
        frames.get(head)
        frames.record(head).pointee.swapSlot.store(slot.raw, ordering: .relaxed)
        frames.setFlags(head, FrameFlags.swapCache | FrameFlags.dirty)
        return true
    }

    /// A page of shared memory: its slot in the file takes the swap entry. A page that nobody wrote is just dropped: it
    /// is what the file has there, zeros.
    private func reclaimShared(_ head: FrameNumber) {
        guard let file = files.find(frames.mapping(ofHead: head).id), unmapForReclaim(head) else { return }
        let index = Int(frames.index(ofHead: head))
        guard frames.hasFlags(head, FrameFlags.dirty) else {
            guard frames.freeze(head, expected: 2) else { return }
            let isDropped = file.cache.replace(index, .frame(head), with: .empty)
            return frames.unfreeze(head, count: isDropped ? 1 : 2)
        }
        guard let slot = swap.allocate() else { return }
        guard frames.freeze(head, expected: 2) else { return swap.put(slot) }
        swap.write(slot, from: frames.bytes(of: head))
        let isReplaced = file.cache.replace(index, .frame(head), with: .swap(slot))
        frames.unfreeze(head, count: isReplaced ? 1 : 2)
        if isReplaced { statistics.swapOuts.add() } else { swap.put(slot) }
    }

    /// Replaces all entries that name the folio by what they need to find it again. False when some are left.
    private func unmapForReclaim(_ head: FrameNumber) -> Bool {
        var isUnmapped = true
        walkReverseMap(head) { vma, pages, _ in
            isUnmapped = vma.space.unmapForReclaim(pages.lowerBound, head)
            return isUnmapped
        }
        return isUnmapped && frames.mappingCount(head) == 0
    }

    /// Whether more than one mapping of the folio may exist, by a look at its first page.
    func isLikelyShared(_ head: FrameNumber) -> Bool {
        if frames.entireMappingCount(head) > 1 { return true }
        return frames.mappingCount(ofPage: head) > 1
    }
}

extension AddressSpace {
    /// Replaces the entry of `page` if it names the folio. False when it has to stay, because the page may be pinned.
    fileprivate func unmapForReclaim(_ page: PageNumber, _ head: FrameNumber) -> Bool {
        let invalidation = beginInvalidation(.clear, page..<page.advanced(by: 1))
        let isDone = unmapInvalidated(page, head)
        invalidation.end()
        return isDone
    }

    private func unmapInvalidated(_ page: PageNumber, _ head: FrameNumber) -> Bool {
        guard let pte = tables.lockPTE(page) else { return true }
        let seen = tables.read(pte)
        let isPresent = seen.isPresent && seen.frame == head
        let isExclusiveLeaf = seen.softLeaf?.kind == .deviceExclusive && seen.frame == head
        guard isPresent || isExclusiveLeaf else {
            tables.unlock(pte)
            return true
        }
        let old = tables.exchange(pte, .empty)
        if isPresent { flushTLB() }
        if frames.mapping(ofHead: head).isAnonymous {
            let wasExclusive = frames.isAnonExclusive(head)
            if wasExclusive, !frames.tryShareExclusive(head) {
                tables.set(pte, old)
                tables.unlock(pte)
                return false
            }
            let slot = SwapSlot(frames.record(head).pointee.swapSlot.load(ordering: .relaxed))
            machine.swap.get(slot)
            tables.set(pte, SoftLeaf.swap(slot, exclusive: wasExclusive, tracking: old.trackingBits).entry)
        }
        if isPresent, old.isDirty { markDirty(head) }
        frames.removeMapping(head)
        tables.unlock(pte)
        frames.put(head)
        return true
    }
}
