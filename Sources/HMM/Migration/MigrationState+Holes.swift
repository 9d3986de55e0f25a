import Synchronization

// Commit, where nothing was mapped: the device's page appears, as if a fault had brought it.
//
// Kernel: mm/migrate_device.c migrate_vma_insert_page (6.12); migrate_vma_insert_huge_pmd_page of later series.

/// The MIGRATE invalidation of filled holes: from the first one to the end of the range. A mirror may hold a page of
/// zeros there.
struct HoleNotice: ~Copyable {
    private let state: Unmanaged<MigrationState>
    private var invalidation: Invalidation?

    init(_ state: MigrationState) { self.state = .passUnretained(state) }

    mutating func begin(at index: Int) {
        guard invalidation == nil else { return }
        let state = state.takeUnretainedValue()
        invalidation = state.space.beginInvalidation(
            .migrate, state.page(index)..<state.pages.upperBound, owner: state.request.owner)
    }

    consuming func end() { if let invalidation = consume invalidation { invalidation.end() } }
}

extension MigrationState {
    /// Fills the hole at `first`, with those behind it in one table. Answers the index behind them.
    func fillHoles(from first: Int, _ notice: inout HoleNotice) -> Int {
        notice.begin(at: first)
        if source[first] & MigrationWord.compound != 0 {
            let unit = MigrationWord.frame(destination[first])
            if fillUnit(first, unit) { return first + 1 << Geometry.pmdOrder }
            guard decomposeHole(first, unit) else { return first + 1 }
        }
        let tableEnd = page(first).alignedDown(order: Geometry.pmdOrder).advanced(by: Geometry.entriesPerTable)
        let limit = min(pages.pageCount, index(of: tableEnd))
        var end = first
        while end < limit, isSingleHoleWithDestination(end) { end += 1 }
        if !fillRun(first..<end) { for index in first..<end { refuse(index) } }
        return end
    }

    @inline(__always)
    private func isSingleHoleWithDestination(_ index: Int) -> Bool {
        source[index] & (MigrationWord.flags) == MigrationWord.migrate && destination[index] != 0
    }

    /// Everything that a fault makes before it looks at the entry.
    private func prepare(_ page: PageNumber) -> Bool {
        guard vma.anonVMA == nil else { return true }
        return (try? space.prepareAnonVMA(vma)) != nil
    }

    /// False when there is no memory for the table, or something of 2 MiB stands there now.
    private func fillRun(_ run: Range<Int>) -> Bool {
        let page = page(run.lowerBound)
        guard prepare(page), tables.entry(page, making: .pte) != nil, let pte = tables.lockPTE(page) else {
            return false
        }
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: run.count) { old in
            // Pages of zeros are taken away from everybody before anybody can write to what replaces them.
            var wasPresent = false
            for i in 0..<run.count {
                old[i] = tables.read(pte + i).raw
                guard old[i] != 0, isZeroPage(PageTableEntry(raw: old[i])) else { continue }
                old[i] = tables.exchange(pte + i, .empty).raw
                wasPresent = true
            }
            if wasPresent { space.flushTLB() }
            for i in 0..<run.count {
                let entry = PageTableEntry(raw: old[i])
                guard entry.isNone || isZeroPage(entry) else {
                    refuse(run.lowerBound + i)
                    continue
                }
                let frame = MigrationWord.frame(destination[run.lowerBound + i])
                adopt(frame, at: run.lowerBound + i)
                frames.record(frame).pointee.mapCount.store(1, ordering: .relaxed)
                tables.set(pte + i, newEntry(frame, tracking: entry.trackingBits, isHuge: false))
                filledHoleCount += 1
            }
        }
        tables.unlock(pte)
        return true
    }

    private func isZeroPage(_ entry: PageTableEntry) -> Bool { entry.isPresent && frames.isZeroFrame(entry.frame) }

    /// The page belongs to this mapping now: a reference for the entry besides ours.
    private func adopt(_ frame: FrameNumber, at index: Int) {
        frames.setMapping(frame, .anonymous(vma.anonVMA!.id), index: vma.index(of: page(index)))
        frames.get(frame)
        let lru = frames.isDeviceFrame(frame) ? 0 : FrameFlags.onLRU
        frames.setFlags(frame, FrameFlags.upToDate | FrameFlags.dirty | FrameFlags.anonExclusive | lru)
    }

    /// The mapping decides what may be done with the page; write protection that is tracked stays.
    private func newEntry(_ frame: FrameNumber, tracking: UInt64, isHuge: Bool) -> PageTableEntry {
        let isWritable = vma.isWritable && tracking & PageTableEntry.uffdWPBit == 0
        if frames.isDevicePrivate(frame) {
            return SoftLeaf.devicePrivate(frame, write: isWritable, tracking: tracking, huge: isHuge).entry
        }
        let entry = isWritable ? space.writableEntry(frame) : .present(frame)
        return entry.tracking(tracking).leaf(isHuge)
    }

    // MARK: 2 MiB

    /// False when something smaller was mapped meanwhile, or there is no memory: then single pages are tried.
    private func fillUnit(_ first: Int, _ unit: FrameNumber) -> Bool {
        let page = page(first)
        guard prepare(page), let pmd = tables.entry(page, making: .pmd) else { return false }
        let seen = tables.read(pmd)
        guard seen.isNone || isZeroPage(seen) else { return false }
        var spare = tables.pool.allocate(.pte)
        guard spare != nil else { return false }
        tables.lock(pmd)
        let old = tables.read(pmd)
        let isFree = old.isNone || isZeroPage(old)
        if isFree {
            if old.isNone {
                tables.deposit(spare!, at: pmd)
                spare = nil
            } else {
                // The leaf of zeros has a table for its split, which serves its successor.
                _ = space.hideLeaf(pmd)
                space.flushTLB()
            }
            adopt(unit, at: first)
            frames.addEntireMapping(unit)
            tables.set(pmd, newEntry(unit, tracking: old.trackingBits, isHuge: true))
            filledHoleCount += 1 << Geometry.pmdOrder
        }
        tables.unlock(pmd)
        if let spare { tables.pool.free(spare) }
        return isFree
    }

    /// Makes single pages of both sides. False when the destination is in use, which only leaves the hole.
    private func decomposeHole(_ first: Int, _ unit: FrameNumber) -> Bool {
        guard splitUnmapped(unit, callers: 0), decompose(unitAt: first) else {
            refuse(first)
            return false
        }
        for i in 0..<1 << Geometry.pmdOrder {
            destination[first + i] = UInt64((unit + i).raw) | HMMPageWord.valid
        }
        return true
    }
}
