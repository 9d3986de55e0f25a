import Synchronization

// Collecting: what the range fault's walk calls for each step of the tables.
//
// Kernel: mm/migrate_device.c migrate_vma_collect_pmd, migrate_vma_collect_hole (6.12).
// Locks: folio (by trylock) inside the PTE table: against the order, so never waited for.

extension MigrationState: PageCollector {
    var mayWait: Bool { heldCount == 0 }

    func collect(_ step: PageTableCursor.Step, in vma: VMA) -> PageNumber? {
        switch step.kind {
        case .hole:
            collectHole(step.pages)
            return nil
        case .pteTable: return collectTable(step)
        case .pmdLeaf: return collectLeaf(step)
        case .pudLeaf: return nil
        }
    }

    // MARK: Holes

    /// Pages where nothing is mapped and no table exists: they can be filled with pages of the device.
    private func collectHole(_ hole: PageRange) {
        guard vma.isAnonymous else { return }
        var page = hole.lowerBound
        while page < hole.upperBound {
            let unit = page..<page.advanced(by: 1 << Geometry.pmdOrder)
            if movesUnits, vma.allowsHugePages, page.isAligned(order: Geometry.pmdOrder), hole.contains(unit) {
                collectHoleUnit(unit)
                page = unit.upperBound
            } else {
                collectSingleHole(index(of: page))
                page = page.advanced(by: 1)
            }
        }
    }

    @inline(__always)
    func index(of page: PageNumber) -> Int { pages.lowerBound.distance(to: page) }

    @inline(__always)
    private func collectSingleHole(_ index: Int) {
        clear(index)
        source[index] |= MigrationWord.migrate
        collectedCount += 1
    }

    func collectHoleUnit(_ unit: PageRange) {
        let first = index(of: unit.lowerBound)
        for index in first..<first + unit.pageCount { clear(index) }
        source[first] |= MigrationWord.migrate | MigrationWord.compound
        collectedCount += unit.pageCount
    }

    // MARK: Tables

    private enum Collected {
        case done
        /// The page belongs to this folio, which has to be split first.
        case needsSplit(FrameNumber)
    }

    /// Collects from one table under one hold of its lock, with one flush.
    private func collectTable(_ step: PageTableCursor.Step) -> PageNumber? {
        let first = index(of: step.pages.lowerBound)
        let count = step.pages.pageCount
        var index = 0
        var wasPresent = false
        tables.lock(step.entry)
        guard tables.read(step.parent) == step.seen else {
            tables.unlock(step.entry)
            return step.pages.lowerBound
        }
        while index < count {
            if case .needsSplit(let head) = collectEntry(step.entry + index, first + index, &wasPresent) {
                guard lockForSplit(head) else {
                    index += 1
                    continue
                }
                if wasPresent { space.flushTLB() }
                tables.unlock(step.entry)
                splitLocked(head)
                // Split or not: what lies here has to be looked at anew; a folio that refused is not tried again.
                return step.pages.lowerBound.advanced(by: index)
            }
            index += 1
        }
        if wasPresent { space.flushTLB() }
        tables.unlock(step.entry)
        return nil
    }

    /// Collects one page, if it is selected and can be had now. The table is locked.
    @inline(__always)
    private func collectEntry(_ pte: EntryPointer, _ index: Int, _ wasPresent: inout Bool) -> Collected {
        let entry = tables.read(pte)
        let zone: Int
        if entry.isNone || (entry.isPresent && entry.isSpecial) {
            let isHole = entry.isNone || (entry.frame == FrameTable.zeroFrame && request.select.contains(.system))
            if isHole, vma.isAnonymous { collectSingleHole(index) }
            return .done
        }
        if entry.isPresent {
            zone = frames.zone(of: entry.frame)
            guard entry.isAccessible, isSelected(zone, .deviceCoherent) else { return .done }
        } else {
            guard let leaf = entry.softLeaf, leaf.kind == .devicePrivate else { return .done }
            zone = frames.zone(of: leaf.frame)
            guard isSelected(zone, .devicePrivate) else { return .done }
        }
        let frame = entry.frame
        let head = frames.head(of: frame)
        guard frames.mapping(ofHead: head).isAnonymous || machine.profile.migrationCollectsFilePages,
            !frames.hasFlags(head, FrameFlags.hasPoison)
        else { return .done }
        if head != frame || frames.order(ofHead: head) > 0 {
            return splitsHugeFolios || head == unsplittable ? .done : .needsSplit(head)
        }
        guard lockSource(head) else { return .done }
        take(pte, entry, index, &wasPresent)
        return .done
    }

    /// Whether pages of the zone are selected; `device` says what a device's zone must be selected by.
    @inline(__always)
    func isSelected(_ zone: Int, _ device: MigrationSelection) -> Bool {
        zone == 0
            ? request.select.contains(.system) : request.select.contains(device) && sourceZones.contains(zone)
    }

    @inline(__always)
    func lockSource(_ head: FrameNumber) -> Bool { head == faultHead || frames.tryLockFolio(head) }

    func unlockSource(_ head: FrameNumber) { if head != faultHead { frames.unlockFolio(head) } }

    /// Replaces the entry by a migration entry. The reference of the mapping becomes ours. The folio is locked.
    @inline(__always)
    private func take(_ pte: EntryPointer, _ entry: PageTableEntry, _ index: Int, _ wasPresent: inout Bool) {
        // A writer of the young and dirty bits may come until the exchange; pins need the lock that we hold.
        let old = tables.exchange(pte, .empty)
        let frame = old.frame
        guard let new = frames.migrationEntry(replacing: old, isMappingWritable: false) else {
            // Pinned: it stays, and its holder goes on seeing the page that is mapped (INV-MG-7).
            tables.set(pte, old)
            unlockSource(frame)
            return
        }
        tables.set(pte, new)
        if old.isPresent { wasPresent = true }
        frames.removeMapping(frame)
        let right = old.raw & PageTableEntry.writableBit == 0 ? 0 : HMMPageWord.write
        source[index] =
            source[index] & HMMPageWord.marksMask | HMMPageWord.valid | right | MigrationWord.migrate
            | MigrationWord.held | UInt64(frame.raw)
        heldCount += 1
        collectedCount += 1
    }

    // MARK: Splitting folios

    /// Locks and references a folio that shall be split. A table that maps it is locked, which keeps it alive until the
    /// reference is there. The caller's own folio has both already.
    func lockForSplit(_ head: FrameNumber) -> Bool {
        if head == faultHead { return true }
        guard frames.tryLockFolio(head) else {
            unsplittable = head
            return false
        }
        frames.get(head)
        return true
    }

    /// Splits a folio from `lockForSplit`, with no table locked. Lock and reference of the caller's folio stay with the
    /// page that it faults on.
    func splitLocked(_ head: FrameNumber) {
        let isCallers = head == faultHead
        let order = frames.order(ofHead: head)
        if machine.splitFolio(head, keeping: isCallers ? request.faultFrame : nil) {
            if frames.isDeviceFrame(head) { frames.deviceMemory(of: head)?.didSplit(head, order: order) }
        } else {
            unsplittable = head
        }
        guard !isCallers else { return }
        frames.unlockFolio(head)
        frames.put(head)
    }
}
