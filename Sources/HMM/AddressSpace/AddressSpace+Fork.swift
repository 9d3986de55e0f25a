import Synchronization

// fork: a second address space that shares what it can until somebody writes.
//
// Which mappings are copied is visible: shared, file and only-ever-read anonymous mappings have no anonymous reverse
// map and start empty in the child, to be faulted in anew, while the parent's mirrors keep their entries. The others
// lose the right to write in both, so all mirror entries of the parent in those mappings die.
//
// Kernel: kernel/fork.c dup_mmap, mm/memory.c copy_page_range, copy_present_ptes, copy_nonpresent_pte (6.12).
// Locks: mmap of the parent for writing > mmap of the child for writing (nobody else can reach it) > PTE table of the
// parent; the child's table is filled without its lock being contended, inside the parent's.

extension AddressSpace {
    /// A copy of this address space.
    ///
    /// - Throws: `.outOfMemory`. The parent is as before then, but for rights to write that the next write fault gives
    ///   back.
    public func fork() throws(HMMError) -> AddressSpace {
        let child = try machine.makeAddressSpace()
        lockForWriting()
        child.mmapLock.lockWriteNested()
        var failure: HMMError?
        do throws(HMMError) {
            for vma in vmas.all { try fork(vma, into: child) }
        } catch {
            failure = error
        }
        flushTLB()
        child.unlockForWriting()
        unlockForWriting()
        guard let failure else { return child }
        child.exit()
        throw failure
    }

    private func fork(_ vma: VMA, into child: AddressSpace) throws(HMMError) {
        try machine.faultInjector.check(.object)
        markWrite(vma)
        let copy = VMA(
            space: child, pages: vma.pages, flags: vma.flags.subtracting([.locked, .uffdWP]), file: vma.file,
            pageOffset: vma.pageOffset)
        copy.forkAnonVMAs(from: vma, table: machine.anonVMAs)
        copy.file?.insert(copy, after: vma)
        child.vmas.insert(copy)
        if vma.isHugetlb { return try forkHugetlb(vma, copy) }
        guard vma.anonVMA != nil || vma.flags.contains(.uffdWP) else { return }
        let invalidation = vma.isCopyOnWrite ? beginInvalidation(.protectionPage, vma.pages) : nil
        var failure: HMMError?
        do throws(HMMError) { try copyEntries(vma, copy) } catch { failure = error }
        if let invalidation {
            flushTLB()
            invalidation.end()
        }
        if let failure { throw failure }
    }

    private func copyEntries(_ vma: VMA, _ copy: VMA) throws(HMMError) {
        var cursor = PageTableCursor(tables, vma.pages)
        while let step = cursor.advance() {
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                if try !forkHugeLeaf(vma, copy, step) { cursor.restart(at: step.pages.lowerBound) }
            case .pteTable:
                if let again = try copyTable(vma, copy, step) { cursor.restart(at: again) }
            }
        }
    }

    /// Why copying a table stopped before its end.
    private enum Interruption {
        /// The page may be pinned: the child needs a copy of its own, for which memory is allocated without locks.
        case needsCopy(Int)
        /// The page is exclusive to a device and its folio locked.
        case lockedExclusive(Int)
    }

    /// Copies the entries of one table. Answers where to start again, if it had to let go of the table.
    private func copyTable(_ vma: VMA, _ copy: VMA, _ step: PageTableCursor.Step) throws(HMMError) -> PageNumber? {
        let child = copy.space
        guard let target = child.tables.entry(step.pages.lowerBound, making: .pte) else {
            throw HMMError(.outOfMemory, "no memory for the child's page tables")
        }
        lockBoth(step.entry, target)
        guard tables.read(step.parent) == step.seen else {
            unlockBoth(step.entry, target)
            return step.pages.lowerBound
        }
        var interruption: Interruption?
        for i in 0..<step.pages.pageCount where !tables.read(step.entry + i).isNone {
            // What was copied before an interruption stays.
            guard tables.read(target + i).isNone else { continue }
            interruption = copyEntry(vma, copy, step.pages.lowerBound.advanced(by: i), step.entry + i, target + i, i)
            if interruption != nil { break }
        }
        unlockBoth(step.entry, target)
        switch interruption {
        case nil: return nil
        case .needsCopy(let i):
            try copyPinned(copy, step.pages.lowerBound.advanced(by: i), step.entry + i, target + i)
            return step.pages.lowerBound
        case .lockedExclusive(let i):
            if machine.profile.forkFailsOnLockedExclusive {
                throw HMMError(.outOfMemory, "a page that is exclusive to a device is locked")
            }
            let entry = tables.read(step.entry + i)
            if let leaf = entry.softLeaf, leaf.kind == .deviceExclusive {
                frames.waitForUnlock(leaf.frame, while: step.entry + i, holds: entry.raw)
            }
            return step.pages.lowerBound
        }
    }

    private func copyEntry(
        _ vma: VMA, _ copy: VMA, _ page: PageNumber, _ source: EntryPointer, _ target: EntryPointer, _ index: Int
    ) -> Interruption? {
        var entry = tables.read(source)
        if let leaf = entry.softLeaf, leaf.kind == .deviceExclusive {
            // No exclusive entry is ever copied: the parent takes the page back first. The invalidation of the whole
            // mapping, which was begun before, covers it.
            guard restoreForFork(vma, source, leaf) else { return .lockedExclusive(index) }
            entry = tables.read(source)
        }
        if entry.isPresent { return copyPresent(vma, copy, source, target, entry, index) }
        if let leaf = entry.softLeaf { copyLeaf(copy, source, target, leaf) }
        return nil
    }

    private func copyPresent(
        _ vma: VMA, _ copy: VMA, _ source: EntryPointer, _ target: EntryPointer, _ seen: PageTableEntry, _ index: Int
    ) -> Interruption? {
        if seen.isSpecial {
            copy.space.tables.set(target, seen.young(false))
            return nil
        }
        let frame = seen.frame
        if frames.isAnonExclusive(frame), !frames.tryShareExclusive(frame) { return .needsCopy(index) }
        if vma.isCopyOnWrite { replacePresent(source, seen) { $0.writable(false) } }
        var entry = tables.read(source).young(false)
        if vma.isShared { entry = entry.dirty(false) }
        if !copy.flags.contains(.uffdWP) { entry = entry.uffdWP(false) }
        frames.get(frame)
        frames.addMapping(frame)
        copy.space.tables.set(target, entry)
        return nil
    }

    private func copyLeaf(_ copy: VMA, _ source: EntryPointer, _ target: EntryPointer, _ leaf: SoftLeaf) {
        var shared = leaf
        switch leaf.kind {
        case .swap:
            machine.swap.get(leaf.swapSlot)
            shared = leaf.withoutWrite(keepsExclusive: false)
        case .migration:
            // Both are replaced by the same migrator, which finds them by the reverse map.
            shared = leaf.withoutWrite(keepsExclusive: false)
        case .devicePrivate:
            frames.get(leaf.frame)
            frames.addMapping(leaf.frame)
            frames.clearFlags(leaf.frame, FrameFlags.anonExclusive)
            shared = leaf.withoutWrite(keepsExclusive: false)
        case .poison: break
        case .deviceExclusive: preconditionFailure("a device-exclusive entry is restored before it is copied")
        case .marker:
            // A marker says something of the child only if the child is tracked too.
            guard copy.flags.contains(.uffdWP) || leaf.marker != .uffdWP else { return }
        }
        if shared != leaf { tables.set(source, shared.entry) }
        var entry = shared.entry
        if !copy.flags.contains(.uffdWP) { entry = entry.uffdWP(false) }
        if leaf.kind == .devicePrivate { entry = entry.softDirty(false) }
        copy.space.tables.set(target, entry)
    }

    /// Gives the child a page of its own, filled from one that may be pinned and so cannot be shared.
    private func copyPinned(
        _ copy: VMA, _ page: PageNumber, _ source: EntryPointer, _ target: EntryPointer
    ) throws(HMMError) {
        guard let new = frames.allocateFolio() else {
            throw HMMError(.outOfMemory, "no memory for a pinned page's copy")
        }
        lockBoth(source, target)
        defer { unlockBoth(source, target) }
        let entry = tables.read(source)
        guard entry.isPresent, !entry.isSpecial, tables.read(target).isNone else { return frames.put(new) }
        frames.copy(entry.frame, to: new)
        frames.initializeAnonymous(
            new, mapping: .anonymous(copy.anonVMA!.id), index: copy.index(of: page))
        let child = writableEntry(new).writable(copy.isWritable)
        copy.space.tables.set(target, child)
    }
}
