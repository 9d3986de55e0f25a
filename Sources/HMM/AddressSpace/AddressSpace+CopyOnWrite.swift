import Synchronization

// Writes through an entry that is present but not writable.
//
// An anonymous page that only this entry names (exclusive, or found to be so by its counts) is written in place.
// Everything else is copied: the new page is filled before anybody is told, then mirrors are invalidated, then the
// entry changes, and the old page loses its mapping only after the flush. Otherwise the other sharer could take it for
// exclusive and write to a page that a stale translation still reads.
//
// Kernel: mm/memory.c do_wp_page, wp_can_reuse_anon_folio, wp_page_copy (6.12).

extension AddressSpace {
    /// Serves a write to a present entry without the right. The table is locked on entry and unlocked on return.
    func writeProtectFault(_ fault: Fault, _ pte: EntryPointer, _ entry: PageTableEntry) -> FaultOutcome {
        if entry.isUffdWP {
            // A handler would have to decide, and this model has none for CPU accesses: nothing is changed.
            tables.unlock(pte)
            return .busError
        }
        if fault.vma.isShared {
            frames.setFlags(frames.head(of: entry.frame), FrameFlags.dirty)
            makeWritable(pte)
            return .done
        }
        if !entry.isSpecial, frames.isAnonymous(entry.frame), canReuse(entry.frame, fault.vma) {
            makeWritable(pte)
            return .done
        }
        return copyOnWrite(fault, pte, entry)
    }

    private func makeWritable(_ pte: EntryPointer) {
        tables.add(pte, bits: PageTableEntry.writableBit | accessBits(true))
        tables.unlock(pte)
    }

    /// Whether the anonymous page may be written in place; marks it exclusive then. The table is locked.
    ///
    /// A page of a large folio is never found to be exclusive by its counts, even where it would be safe, as in 6.12.
    private func canReuse(_ frame: FrameNumber, _ vma: VMA) -> Bool {
        if frames.isAnonExclusive(frame) { return true }
        guard !frames.isLarge(frame) else { return false }
        let cacheReference = frames.isInSwapCache(frame) ? 1 : 0
        guard frames.refCount(frame) <= 1 + cacheReference, frames.tryLockFolio(frame) else { return false }
        defer { frames.unlockFolio(frame) }
        machine.tryFreeSwap(frame)
        guard frames.refCount(frame) == 1 else { return false }
        frames.setFlags(frame, FrameFlags.anonExclusive)
        moveAnonymous(frame, to: vma)
        return true
    }

    /// The page belongs to this VMA alone from now on: later sharers by fork are found from here. The folio is locked.
    func moveAnonymous(_ head: FrameNumber, to vma: VMA) {
        guard let object = vma.anonVMA else { return }
        frames.setMapping(head, .anonymous(object.id), index: frames.index(ofHead: head))
    }

    private func copyOnWrite(_ fault: Fault, _ pte: EntryPointer, _ entry: PageTableEntry) -> FaultOutcome {
        let source = entry.frame
        let isCounted = !entry.isSpecial
        if isCounted { frames.get(source) }
        tables.unlock(pte)
        defer { if isCounted { frames.put(source) } }

        if fault.vma.anonVMA == nil {
            guard fault.holdsMMapLock else { return .needsMMapLock }
            guard (try? prepareAnonVMA(fault.vma)) != nil else { return .outOfMemory }
        }
        guard let copy = frames.allocateFolio() else { return .outOfMemory }
        fillCopy(copy, from: source, isZero: !isCounted)
        machine.statistics.copiesOnWrite.add()

        let invalidation = beginInvalidation(.clear, fault.page..<fault.page.advanced(by: 1))
        tables.lock(pte)
        let now = tables.read(pte)
        guard now.isPresent, now.frame == source, !now.isWritable else {
            tables.unlock(pte)
            invalidation.end()
            frames.put(copy)
            return .done
        }
        let old = tables.exchange(pte, .empty)
        flushTLB()
        frames.initializeAnonymous(
            copy, mapping: .anonymous(fault.vma.anonVMA!.id), index: fault.vma.index(of: fault.page))
        tables.set(pte, writableEntry(copy))
        if isCounted {
            if old.isDirty { frames.setFlags(frames.head(of: source), FrameFlags.dirty) }
            frames.removeMapping(source)
        }
        tables.unlock(pte)
        invalidation.end()
        if isCounted { machine.releaseUnmapped(source) }
        return .done
    }

    /// Copies a page that CPUs may still read, and whose other sharers cannot write it either.
    private func fillCopy(_ copy: FrameNumber, from source: FrameNumber, isZero: Bool) {
        if isZero {
            clearPages(frames.bytes(of: copy))
        } else {
            copyWords(from: source, to: copy)
        }
    }

    /// Word by word, because a file page that is copied may be written through a shared mapping meanwhile.
    private func copyWords(from source: FrameNumber, to copy: FrameNumber) {
        let from = frames.words(of: source)
        let to = frames.words(of: copy)
        for i in 0..<Geometry.wordsPerPage { to[i].store(from[i].load(ordering: .relaxed), ordering: .relaxed) }
    }

    // MARK: Private file pages

    /// The first write to a page of a private file mapping: a copy, filled from the page cache.
    ///
    /// Kernel: mm/memory.c do_cow_fault (6.12).
    func privateFileWriteFault(_ fault: Fault, _ pte: EntryPointer, _ file: FileMapping) -> FaultOutcome {
        if fault.vma.anonVMA == nil {
            guard fault.holdsMMapLock else { return .needsMMapLock }
            guard (try? prepareAnonVMA(fault.vma)) != nil else { return .outOfMemory }
        }
        guard let copy = frames.allocateFolio() else { return .outOfMemory }
        let index = fault.vma.index(of: fault.page)
        guard let source = try? file.lockedPage(Int(index)) else {
            frames.put(copy)
            return .outOfMemory
        }
        let head = frames.head(of: source)
        copyWords(from: source, to: copy)
        tables.lock(pte)
        let isFree = tables.read(pte).isNone
        if isFree {
            frames.initializeAnonymous(copy, mapping: .anonymous(fault.vma.anonVMA!.id), index: index)
            tables.set(pte, writableEntry(copy))
        }
        tables.unlock(pte)
        frames.unlockFolio(head)
        frames.put(head)
        if !isFree { frames.put(copy) }
        return .done
    }
}
