import Synchronization

// Finish: migration entries become entries again, of the new page or of the old one, and everything is let go.
//
// Nobody is notified: nobody could have mirrored what was not there.
//
// Kernel: mm/migrate_device.c migrate_device_finalize, mm/migrate.c remove_migration_pte (6.12).

extension MigrationState {
    /// Runs once, whatever came before.
    func finish() {
        guard phase != .finished else { return }
        // What was not committed has not moved.
        if phase != .committed { for index in 0..<pages.pageCount { refuse(index) } }
        finishPages { _ in true }
        phase = .finished
    }

    /// Finishes the pages whose words are selected: entries, locks and references, also of destinations.
    func finishPages(where isSelected: (UInt64) -> Bool) {
        var first = 0
        while first < pages.pageCount {
            let tableEnd = page(first).alignedDown(order: Geometry.pmdOrder).advanced(by: Geometry.entriesPerTable)
            let end = min(pages.pageCount, index(of: tableEnd))
            finishTable(first..<end, isSelected)
            first = end
        }
    }

    /// The pages of one table: their entries under one hold of its lock, and then what is left of them, together.
    private func finishTable(_ run: Range<Int>, _ isSelected: (UInt64) -> Bool) {
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: 2 * run.count) { buffer in
            var released = ReleaseList(buffer.baseAddress!)
            var pte: EntryPointer?
            var hasTable = true
            for index in run {
                let word = source[index]
                guard word & MigrationWord.held != 0 || destination[index] != 0, isSelected(word) else { continue }
                if word & MigrationWord.held == 0 {
                    release(MigrationWord.frame(destination[index]), &released)
                } else if word & (MigrationWord.shared | MigrationWord.compound) == 0 {
                    if pte == nil, hasTable {
                        pte = tables.lockPTE(page(run.lowerBound))
                        hasTable = pte != nil
                    }
                    finishSingle(index, pte.map { $0 + (index - run.lowerBound) }, &released)
                } else {
                    if let locked = pte { tables.unlock(locked) }
                    pte = nil
                    finishByReverseMap(index, &released)
                }
                destination[index] = 0
            }
            if let pte { tables.unlock(pte) }
            frames.unlockAndPut(released.base, count: released.count)
        }
    }

    /// A page that only our entry named. That is what it becomes an entry of again; if it is gone, with its table even,
    /// then its page goes too.
    ///
    /// The table is locked, so the page cannot be unmapped before everything about it is told.
    @inline(__always)
    private func finishSingle(_ index: Int, _ pte: EntryPointer?, _ released: inout ReleaseList) {
        let word = source[index]
        let from = MigrationWord.frame(word)
        let to = destination[index] == 0 ? from : MigrationWord.frame(destination[index])
        let hasMoved = word & MigrationWord.migrate != 0 && to != from
        let now = hasMoved ? to : from
        let isCallers = request.faultFrame != nil && from == faultHead
        if let pte, let leaf = tables.read(pte).softLeaf, leaf.kind == .migration, leaf.frame == from {
            // The reference that we have, of the allocation or of the mapping that went, is the entry's from now on.
            if hasMoved { frames.setFlags(to, machine.movingFlags(from, to: to)) }
            frames.addMapping(now)
            tables.set(pte, frames.restoredEntry(leaf, now, mappingFlags))
            if hasMoved {
                frames.unlockFolio(to)
                releaseSource(from, isCallers, &released)
            } else if !isCallers {
                frames.unlockFolio(from)
            }
        } else {
            if hasMoved { released.append(to) }
            // Only the swap cache may still know the page, and its slot goes with it.
            machine.tryFreeSwap(from)
            releaseSource(from, isCallers, &released)
        }
        // A destination that was not used.
        if !hasMoved, to != from { released.append(to) }
        heldCount -= 1
        source[index] &= ~MigrationWord.held
    }

    private func releaseSource(_ from: FrameNumber, _ isCallers: Bool, _ released: inout ReleaseList) {
        // The caller unlocks its folio itself, and has a reference of its own.
        if isCallers { frames.put(from) } else { released.append(from) }
    }

    /// Units, and pages that several entries name.
    private func finishByReverseMap(_ index: Int, _ released: inout ReleaseList) {
        let word = source[index]
        let from = MigrationWord.frame(word)
        let to = destination[index] == 0 ? from : MigrationWord.frame(destination[index])
        let hasMoved = word & MigrationWord.migrate != 0 && to != from
        if hasMoved { frames.setFlags(to, machine.movingFlags(from, to: to)) }
        machine.removeMigrationEntries(from: from, to: hasMoved ? to : from)
        if to != from { release(to, &released) }
        let isCallers = from == faultHead
        if isCallers { frames.put(from) } else { release(from, &released) }
        heldCount -= 1
        source[index] &= ~MigrationWord.held
    }

    /// Lets go of a folio of any size, which we have locked and referenced.
    private func release(_ head: FrameNumber, _ released: inout ReleaseList) {
        if frames.order(ofHead: head) == 0 { return released.append(head) }
        frames.unlockFolio(head)
        frames.put(head)
    }
}

/// Single-page folios to be unlocked and put together.
private struct ReleaseList {
    let base: UnsafeMutablePointer<FrameNumber>
    var count = 0

    init(_ base: UnsafeMutablePointer<FrameNumber>) { self.base = base }

    @inline(__always)
    mutating func append(_ frame: FrameNumber) {
        base[count] = frame
        count += 1
    }
}
