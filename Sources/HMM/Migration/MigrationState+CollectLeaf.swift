import Synchronization

// Collecting what one entry of 2 MiB maps: whole, or after a split.
//
// Kernel: mm/migrate_device.c migrate_vma_collect_pmd (6.12); migrate_vma_collect_huge_pmd of later series.

extension MigrationState {
    func collectLeaf(_ step: PageTableCursor.Step) -> PageNumber? {
        let pmd = step.entry
        tables.lock(pmd)
        let entry = tables.read(pmd)
        if entry.isNone || entry.isTable {
            tables.unlock(pmd)
            return step.pages.lowerBound
        }
        if entry.isPresent, entry.isSpecial { return collectHugeZero(step) }
        guard let head = selectedHead(entry) else {
            tables.unlock(pmd)
            return nil
        }
        if movesUnits, step.pages.pageCount == 1 << Geometry.pmdOrder {
            collectUnit(step, head)
            tables.unlock(pmd)
            return nil
        }
        return splitLeafFolio(step, head)
    }

    /// The folio of a leaf that has to do with this migration. What it is is known before it is looked at: the frame of
    /// a leaf of another kind means something else.
    private func selectedHead(_ entry: PageTableEntry) -> FrameNumber? {
        let kind = entry.softLeaf?.kind
        guard entry.isAccessible || kind == .devicePrivate else { return nil }
        // 6.12 splits whatever it meets, also the pages of files that it will not move. These are unmapped then.
        if splitsHugeFolios { return entry.frame }
        guard frames.mapping(ofHead: entry.frame).isAnonymous else { return nil }
        let device: MigrationSelection = kind == .devicePrivate ? .devicePrivate : .deviceCoherent
        guard isSelected(frames.zone(of: entry.frame), device), entry.frame != unsplittable else { return nil }
        return entry.frame
    }

    /// The shared 2 MiB of zeros: a hole of that size, or 512 pages of zeros. The PMD table is locked, and unlocked on
    /// return.
    private func collectHugeZero(_ step: PageTableCursor.Step) -> PageNumber? {
        tables.unlock(step.entry)
        let isWanted = request.select.contains(.system) && vma.isAnonymous
        guard isWanted || splitsHugeFolios else { return nil }
        if movesUnits, step.pages.pageCount == 1 << Geometry.pmdOrder {
            collectHoleUnit(step.pages)
            return nil
        }
        space.splitHugeLeaf(around: step.pages.lowerBound, in: vma, always: true)
        return step.pages.lowerBound
    }

    /// Replaces the leaf by one migration entry. The PMD table is locked.
    private func collectUnit(_ step: PageTableCursor.Step, _ head: FrameNumber) {
        guard lockSource(head) else { return }
        let old = space.hideLeaf(step.entry)
        if old.isPresent { space.flushTLB() }
        guard let new = space.migrationEntry(replacing: old, in: vma) else {
            // Pinned, as each of its pages would be: it stays in one piece.
            tables.set(step.entry, old)
            unlockSource(head)
            return
        }
        tables.set(step.entry, new)
        frames.removeEntireMapping(head)
        let first = index(of: step.pages.lowerBound)
        for index in first..<first + step.pages.pageCount { clear(index) }
        let right = old.raw & PageTableEntry.writableBit == 0 ? 0 : HMMPageWord.write
        source[first] |=
            HMMPageWord.valid | HMMPageWord.order(Geometry.pmdOrder) | right | MigrationWord.migrate
            | MigrationWord.compound | MigrationWord.held | UInt64(head.raw)
        heldCount += 1
        collectedCount += step.pages.pageCount
    }

    /// Splits the folio, so that its pages can be collected one by one. If it cannot be had the piece stays as it is:
    /// no error, since every other page may go. The PMD table is locked, and unlocked on return.
    private func splitLeafFolio(_ step: PageTableCursor.Step, _ head: FrameNumber) -> PageNumber? {
        let isLocked = lockForSplit(head)
        tables.unlock(step.entry)
        guard isLocked else { return nil }
        splitLocked(head)
        return unsplittable == head ? nil : step.pages.lowerBound
    }

    // MARK: Units that turn out not to be movable as such

    /// Makes single pages of a unit: each migrates for itself, with lock and reference of its own. False when that
    /// cannot be; then the unit goes nowhere.
    ///
    /// Invariant: INV-MG-8 before any of its data moves.
    func decompose(unitAt first: Int) -> Bool {
        let word = source[first]
        guard word & MigrationWord.held != 0 else {
            for index in first..<first + 1 << Geometry.pmdOrder {
                clear(index)
                source[index] |= MigrationWord.migrate
            }
            return true
        }
        let head = MigrationWord.frame(word)
        let isCallers = head == faultHead
        guard word & MigrationWord.shared == 0 else { return false }
        splitMigrationLeaf(first, head)
        guard splitUnmapped(head, callers: isCallers ? 1 : 0) else { return false }
        let kept = word & (HMMPageWord.write | HMMPageWord.valid | MigrationWord.migrate | MigrationWord.held)
        for i in 0..<1 << Geometry.pmdOrder {
            clear(first + i)
            source[first + i] |= kept | UInt64((head + i).raw)
        }
        heldCount += 1 << Geometry.pmdOrder - 1
        return true
    }

    /// Our own migration entry of 2 MiB becomes 512 single ones, if it is still there.
    private func splitMigrationLeaf(_ first: Int, _ head: FrameNumber) {
        guard let pmd = tables.entry(page(first), .pmd) else { return }
        tables.lock(pmd)
        defer { tables.unlock(pmd) }
        let leaf = tables.read(pmd).softLeaf
        if let leaf, leaf.kind == .migration, leaf.frame == head { space.splitLeaf(pmd) }
    }

    /// Splits a folio that nothing maps, with our reference and those of `callers`. Every page is locked afterwards.
    func splitUnmapped(_ head: FrameNumber, callers: Int) -> Bool {
        guard frames.freeze(head, expected: 1 + callers) else { return false }
        let order = frames.order(ofHead: head)
        frames.splitRecords(head, count: 1 << order, cacheReferences: 0)
        if callers > 0, let frame = request.faultFrame { frames.get(frame, count: Int32(callers)) }
        if frames.isDeviceFrame(head) { frames.deviceMemory(of: head)?.didSplit(head, order: order) }
        return true
    }
}
