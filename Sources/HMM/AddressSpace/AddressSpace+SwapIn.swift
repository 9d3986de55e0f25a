import Synchronization

// Swap: entries that name a slot, and the cache between slots and frames.
//
// Kernel: mm/memory.c do_swap_page, mm/swapfile.c folio_free_swap, mm/swap_state.c (6.12).

extension AddressSpace {
    /// Brings a page back from swap.
    ///
    /// The frame is put into the swap cache, locked, before it is read: a second fault on the slot finds it there and
    /// waits.
    func swapIn(_ fault: Fault, _ pte: EntryPointer, _ leaf: SoftLeaf) -> FaultOutcome {
        guard let (frame, isFresh) = lockedSwapPage(leaf.swapSlot, pte, leaf) else {
            return tables.read(pte) == leaf.entry ? .outOfMemory : .done
        }
        tables.lock(pte)
        if tables.read(pte) == leaf.entry { install(fault, pte, leaf, frame, isFresh: isFresh) }
        tables.unlock(pte)
        frames.unlockFolio(frames.head(of: frame))
        // If the entry changed meanwhile, the slot may have lost its last one, and the page has no use.
        machine.releaseUnmapped(frame)
        return .done
    }

    /// Replaces the entry. The folio and the table are locked, and the caller holds a reference.
    private func install(
        _ fault: Fault, _ pte: EntryPointer, _ leaf: SoftLeaf, _ frame: FrameNumber, isFresh: Bool
    ) {
        let vma = fault.vma
        let head = frames.head(of: frame)
        machine.swap.put(leaf.swapSlot)
        // A writer wants the page for itself; and swap that answers at once, as a RAM disk does, keeps no slot for a
        // page whose only user just read it. Two references are the caller's and the cache's.
        if fault.write || isFresh, frames.refCount(head) == 2 { machine.tryFreeSwap(head) }
        let isExclusive = leaf.isSwapExclusive || frames.refCount(head) == 1
        if frames.mapping(ofHead: head) == .none {
            // A page that others may share is found from the oldest reverse map, which all of them are linked to.
            let object = isExclusive ? vma.anonVMA! : vma.anonVMA!.root
            frames.setMapping(frame, .anonymous(object.id), index: vma.index(of: fault.page))
        }
        frames.get(frame)
        frames.addMapping(frame)
        var entry = PageTableEntry.present(frame).tracking(leaf.entry.trackingBits)
        if isExclusive {
            frames.setFlags(frame, FrameFlags.anonExclusive)
            // Writable at once, even for a read: nobody else can see the page.
            if vma.isWritable, !entry.isUffdWP { entry = entry.writable() }
        }
        if fault.write, entry.isWritable { entry = entry.dirty().softDirty() }
        tables.set(pte, entry)
    }

    /// The frame of a slot, locked and referenced, and whether it had to be read. Nil when the entry changed or there
    /// is no memory.
    private func lockedSwapPage(
        _ slot: SwapSlot, _ pte: EntryPointer, _ leaf: SoftLeaf
    ) -> (frame: FrameNumber, isFresh: Bool)? {
        while tables.read(pte) == leaf.entry {
            if let cached = machine.swap.cachedFrame(slot) {
                guard frames.tryGet(cached) else {
                    // Reclaim is about to take it out of the cache, and may need this thread's time for it.
                    SyncThread.yield()
                    continue
                }
                let head = frames.head(of: cached)
                frames.lockFolio(head)
                if machine.swap.cachedFrame(slot) == cached { return (cached, false) }
                frames.unlockFolio(head)
                frames.put(cached)
                continue
            }
            guard let frame = frames.allocateLockedFolio() else { return nil }
            if machine.swap.insertCache(slot, frame) {
                readSwapped(frame, slot)
                return (frame, true)
            }
            frames.unlockFolio(frame)
            frames.put(frame)
        }
        return nil
    }

    private func readSwapped(_ frame: FrameNumber, _ slot: SwapSlot) {
        frames.get(frame)  // the reference of the cache
        frames.record(frame).pointee.swapSlot.store(slot.raw, ordering: .relaxed)
        frames.joinSwapCache(frame, FrameFlags.upToDate | FrameFlags.onLRU)
        machine.swap.read(slot, into: frames.bytes(of: frame))
        machine.statistics.swapIns.add()
    }
}

extension Machine {
    /// The slot of a page in the swap cache.
    package func swapSlot(of frame: FrameNumber) -> SwapSlot {
        SwapSlot(frames.record(frame).pointee.swapSlot.load(ordering: .relaxed))
    }

    /// Ends the caching of the folio's slots. The references of the cache are the caller's to drop. The folio is
    /// locked.
    package func forgetSwapCache(_ head: FrameNumber) {
        frames.leaveSwapCache(head)
        for i in 0..<frames.pageCount(ofHead: head) {
            let slot = swapSlot(of: head + i)
            frames.record(head + i).pointee.swapSlot.store(0, ordering: .relaxed)
            swap.removeCache(slot)
        }
    }

    /// Takes a folio out of the swap cache. It is locked; the caller has a reference besides the cache's.
    func removeFromSwapCache(_ head: FrameNumber) {
        guard frames.isInSwapCache(head) else { return }
        // Without its slots the folio holds the only copy.
        frames.setFlags(head, FrameFlags.dirty)
        forgetSwapCache(head)
        frames.put(head, count: Int32(frames.pageCount(ofHead: head)))
    }

    /// Takes a folio out of the swap cache if no entry names one of its slots. The folio is locked.
    package func tryFreeSwap(_ head: FrameNumber) {
        guard frames.isInSwapCache(head) else { return }
        for i in 0..<frames.pageCount(ofHead: head) where swap.count(swapSlot(of: head + i)) > 1 { return }
        removeFromSwapCache(head)
    }

    /// A swap entry went. If that leaves the slot to the cache alone, and nobody maps the page, both go.
    func dropSwapEntry(_ slot: SwapSlot) {
        guard let frame = swap.putEntry(slot), frames.tryGet(frame) else { return }
        let head = frames.head(of: frame)
        if frames.isInSwapCache(head) { dropIfUnused(head) }
        frames.put(frame)
    }

    /// Drops the reference of a mapping that is gone; a page that only the swap cache still knew is freed with its
    /// slot.
    func releaseUnmapped(_ frame: FrameNumber) {
        let head = frames.head(of: frame)
        if frames.isInSwapCache(head), frames.mappingCount(head) == 0 { dropIfUnused(head) }
        frames.put(frame)
    }

    /// Takes the page out of the swap cache if nobody maps it and no entry names its slot. Never waits: when the folio
    /// is locked, this is left to whoever unlocks it.
    package func dropIfUnused(_ head: FrameNumber) {
        while !frames.tryLockFolio(head) {
            // Who has the lock looks at what was left to it when it unlocks, so this one need not look again.
            if frames.leaveToUnlocker(head) { return }
        }
        if frames.mappingCount(head) == 0 { tryFreeSwap(head) }
        frames.unlockFolio(head)
    }
}
