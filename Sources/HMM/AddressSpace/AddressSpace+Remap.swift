import Synchronization

// mremap to another place.
//
// Kernel: mm/mremap.c mremap_to, move_vma, move_page_tables, move_ptes (6.12).

extension AddressSpace {
    /// Moves the mapping of `pages`, which lies in one VMA, to `destination`, where whatever was mapped is unmapped.
    /// Entries move as they are, whatever their kind.
    ///
    /// - Throws: `.badAddress` when the range is not covered by one VMA (nothing is moved); `.invalidArgument` for
    ///   overlapping or misaligned ranges; `.outOfMemory`.
    public func remap(_ pages: PageRange, to destination: PageNumber) throws(HMMError) {
        guard !pages.isEmpty, pages.upperBound <= Geometry.endPage else {
            throw HMMError(.invalidArgument, "the range is empty or lies outside the address space")
        }
        let target = destination..<destination.advanced(by: pages.pageCount)
        guard target.upperBound <= Geometry.endPage, !target.overlaps(pages) else {
            throw HMMError(.invalidArgument, "the destination lies outside the address space or on the source")
        }
        lockForWriting()
        defer { unlockForWriting() }
        try unmapLocked(target)
        guard let vma = vmas.find(pages.lowerBound), vma.pages.contains(pages) else {
            throw HMMError(.badAddress, "the range is not covered by one mapping")
        }
        if vma.isHugetlb, !hugetlbMayCut(vma, pages) || !destination.isAligned(order: Geometry.pmdOrder) {
            throw HMMError(.invalidArgument, "the range cuts a hugetlb page")
        }
        try move(vma, pages, to: target)
    }

    private func move(_ vma: VMA, _ pages: PageRange, to target: PageRange) throws(HMMError) {
        try machine.faultInjector.check(.object)
        markWrite(vma)
        // Memory that was never touched takes the offsets of its new place, so that it may merge there.
        let isUntouched = vma.isAnonymous && vma.anonVMA == nil
        let offset = isUntouched ? target.lowerBound.raw : vma.index(of: pages.lowerBound)
        let new = VMA(space: self, pages: target, flags: vma.flags, file: vma.file, pageOffset: offset)
        new.anonVMA = vma.anonVMA
        linkClone(new, of: vma)
        markWrite(new)
        new.linkFile()
        vmas.insert(new)
        let invalidation = beginInvalidation(.unmap, pages)
        let isMoved = moveEntries(pages, to: target.lowerBound, new)
        flushTLB()
        if !isMoved {
            // Back where they were: the tables of the source are all there still.
            let isBack = moveEntries(target, to: pages.lowerBound, vma)
            precondition(isBack, "entries cannot go back to where they came from")
            flushTLB()
        }
        invalidation.end()
        if new.isHugetlb { moveHugetlbReservation(from: vma, to: new) }
        try unmapLocked(isMoved ? pages : target)
        if !isMoved { throw HMMError(.outOfMemory, "no memory for the tables of the destination") }
    }

    /// Moves the entries of a range. False when a table could not be made; some have been moved then.
    private func moveEntries(_ pages: PageRange, to destination: PageNumber, _ vma: VMA) -> Bool {
        let distance = Int64(bitPattern: destination.raw) - Int64(bitPattern: pages.lowerBound.raw)
        var cursor = PageTableCursor(tables, pages)
        // Walkers of the reverse map must find each entry at its old or its new place.
        lockReverseMaps(vma)
        defer { unlockReverseMaps(vma) }
        while let step = cursor.advance() {
            let target = step.pages.lowerBound.advanced(by: Int(distance))
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                let isWhole = step.pages.pageCount == 1 << Geometry.pmdOrder && target.isAligned(order: 9)
                if isWhole {
                    guard moveHugeLeaf(step, to: target, hasTable: !vma.isHugetlb) else { return false }
                } else {
                    unlockReverseMaps(vma)
                    splitHugeLeaf(around: step.pages.lowerBound, in: vma, always: true)
                    lockReverseMaps(vma)
                    cursor.restart(at: step.pages.lowerBound)
                }
            case .pteTable:
                guard moveTable(step, to: target) else { return false }
            }
        }
        return true
    }

    private func lockReverseMaps(_ vma: VMA) {
        vma.file?.mapLock.lockWrite()
        vma.anonVMA?.lockWrite()
    }

    private func unlockReverseMaps(_ vma: VMA) {
        vma.anonVMA?.unlockWrite()
        vma.file?.mapLock.unlockWrite()
    }

    /// Moves the entries of one PTE table, which may go to two tables.
    private func moveTable(_ step: PageTableCursor.Step, to target: PageNumber) -> Bool {
        var done = 0
        while done < step.pages.pageCount {
            let page = target.advanced(by: done)
            let room = Geometry.entriesPerTable - PageTables.index(page, .pte)
            let count = min(room, step.pages.pageCount - done)
            guard let slot = tables.entry(page, making: .pte) else { return false }
            moveRun(step.entry + done, to: slot, count: count)
            done += count
        }
        return true
    }

    private func moveRun(_ source: EntryPointer, to target: EntryPointer, count: Int) {
        lockBoth(source, target)
        for i in 0..<count where !tables.read(source + i).isNone {
            var entry = tables.exchange(source + i, .empty)
            if entry.isPresent || entry.softLeaf?.kind == .swap { entry = entry.softDirty() }
            tables.set(target + i, entry)
        }
        unlockBoth(source, target)
    }

    /// Two tables are locked in ascending order of address; source and target may lie in one.
    func lockBoth(_ a: EntryPointer, _ b: EntryPointer) {
        let (low, high) = a < b ? (a, b) : (b, a)
        tables.lock(low)
        if tables.pool.table(of: low) != tables.pool.table(of: high) { tables.lock(high) }
    }

    func unlockBoth(_ a: EntryPointer, _ b: EntryPointer) {
        tables.unlock(a)
        if tables.pool.table(of: a) != tables.pool.table(of: b) { tables.unlock(b) }
    }
}
