import Synchronization

/// What is told of pages that change hands between a device and everybody else.
public protocol ExclusiveObserver: AnyObject, Sendable {
    /// Called with the folio locked; takes no locks of the core.
    func exclusiveGranted(_ page: PageNumber, to owner: NotifierOwner)
    func exclusiveRestored(_ page: PageNumber)
}

// Taking a page back from the device that has it exclusively. Making it exclusive is in Exclusive/.
//
// Kernel: mm/memory.c remove_device_exclusive_entry, restore_exclusive_pte, try_restore_exclusive_pte (6.12).

extension AddressSpace {
    /// A CPU, or somebody on its behalf, touched the page. Tells everybody (the event has no owner: also the holder has
    /// to let go), then makes the entry present again.
    func restoreExclusive(_ vma: VMA, _ page: PageNumber, _ pte: EntryPointer, _ leaf: SoftLeaf) -> FaultOutcome {
        // A reference before the lock: another CPU may restore the entry and free the page meanwhile.
        guard frames.tryGet(leaf.frame) else { return .done }
        let head = frames.head(of: leaf.frame)
        frames.lockFolio(head)
        let invalidation = beginInvalidation(.exclusive, page..<page.advanced(by: 1))
        tables.lock(pte)
        let isOurs = tables.read(pte) == leaf.entry
        if isOurs { restore(vma, pte, leaf) }
        tables.unlock(pte)
        invalidation.end()
        if isOurs { exclusiveObserver?.exclusiveRestored(page) }
        frames.unlockFolio(head)
        frames.put(head)
        return .done
    }

    /// Fork takes the page back without waiting, under an invalidation of the whole mapping. False when the folio is
    /// locked. The table is locked.
    func restoreForFork(_ vma: VMA, _ pte: EntryPointer, _ leaf: SoftLeaf) -> Bool {
        let head = frames.head(of: leaf.frame)
        guard frames.tryLockFolio(head) else { return false }
        restore(vma, pte, leaf)
        frames.unlockFolio(head)
        return true
    }

    /// Makes the entry present: old, clean unless the profile says otherwise, with the rights that the VMA has now.
    /// The folio and the table are locked. The entry keeps its reference and its map count.
    private func restore(_ vma: VMA, _ pte: EntryPointer, _ leaf: SoftLeaf) {
        var entry = PageTableEntry.present(leaf.frame).young(false).tracking(leaf.entry.trackingBits)
        let mayWrite = vma.isWritable && !entry.isUffdWP && frames.isAnonExclusive(leaf.frame)
        if machine.profile.exclusiveRemembersWrite {
            // 6.12: mprotect turned the entry into a read one for good; a write entry comes back writable and dirty.
            if leaf.isWriteKind, mayWrite { entry = entry.writable().dirty() }
        } else if mayWrite {
            entry = entry.writable()
        }
        if vma.flags.isDisjoint(with: .access) { entry = entry.writable(false).protNone() }
        tables.set(pte, entry)
    }
}
