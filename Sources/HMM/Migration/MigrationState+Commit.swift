import Synchronization

// Commit: pages hand their identity to their destinations.
//
// Kernel: mm/migrate_device.c __migrate_device_pages, mm/migrate.c folio_migrate_mapping (6.12).

extension MigrationState {
    /// Invariant: INV-MG-4 afterwards a page that still migrates has moved.
    func commit() {
        var notice = HoleNotice(self)
        var index = 0
        while index < pages.pageCount {
            let word = source[index]
            guard word & MigrationWord.migrate != 0 else {
                index += 1
                continue
            }
            guard destination[index] != 0 else {
                refuse(index)
                index += 1
                continue
            }
            if word & MigrationWord.held == 0 {
                index = fillHoles(from: index, &notice)
            } else {
                moveData(index)
                index += 1
            }
        }
        notice.end()
        phase = .committed
        countMoves()
    }

    private func moveData(_ index: Int) {
        let from = MigrationWord.frame(source[index])
        let to = MigrationWord.frame(destination[index])
        guard machine.moveIdentity(from, to: to, isExclusive: { isOnlyOurs($0) }) else { return refuse(index) }
        movedCount += source[index] & MigrationWord.compound == 0 ? 1 : 1 << Geometry.pmdOrder
    }

    private func countMoves() {
        var toDevice = 0
        for index in 0..<pages.pageCount
        where source[index] & MigrationWord.migrate != 0
            && frames.isDeviceFrame(MigrationWord.frame(destination[index]))
        {
            toDevice += source[index] & MigrationWord.compound == 0 ? 1 : 1 << Geometry.pmdOrder
        }
        machine.statistics.pagesToDevice.add(UInt64(toDevice))
        machine.statistics.pagesToSystem.add(UInt64(movedCount + filledHoleCount - toDevice))
    }

    // MARK: Runs for mirrors

    func hasMoved(_ index: Int) -> Bool {
        let head = max(0, self.index(of: page(index).alignedDown(order: Geometry.pmdOrder)))
        let isInUnit = source[head] & MigrationWord.compound != 0
        return source[isInUnit ? head : index] & MigrationWord.migrate != 0
    }

    func forEachMovedRun(_ body: (HMMRun) -> Void) {
        forEachRun(body) { index in
            let word = source[index]
            guard word & MigrationWord.migrate != 0 else { return nil }
            let isHole = word & MigrationWord.held == 0
            // What a hole was filled with obeys the mapping; what was moved obeys its entry.
            let isWritable = isHole ? vma.isWritable : word & HMMPageWord.write != 0
            let order = word & MigrationWord.compound == 0 ? 0 : Geometry.pmdOrder
            return (MigrationWord.frame(destination[index]), isWritable, order)
        }
    }

    func forEachResidentRun(_ body: (HMMRun) -> Void) {
        forEachRun(body) { index in
            let word = source[index]
            guard word & (MigrationWord.flags | HMMPageWord.valid) == HMMPageWord.valid else { return nil }
            let result = HMMPageResult(rawValue: word)
            return (result.frame, result.isWritable, result.order)
        }
    }

    private func forEachRun(
        _ body: (HMMRun) -> Void, _ page: (Int) -> (frame: FrameNumber, isWritable: Bool, order: Int)?
    ) {
        var index = 0
        while index < pages.pageCount {
            guard let first = page(index) else {
                index += 1
                continue
            }
            let isUnit = source[index] & MigrationWord.compound != 0
            var count = isUnit ? 1 << Geometry.pmdOrder : 1
            while !isUnit, index + count < pages.pageCount, let next = page(index + count),
                source[index + count] & MigrationWord.compound == 0, next.frame == first.frame + count,
                next.isWritable == first.isWritable, next.order == first.order
            {
                count += 1
            }
            let start = self.page(index)
            body(
                HMMRun(
                    pages: start..<start.advanced(by: count), firstFrame: first.frame, isWritable: first.isWritable,
                    order: first.order))
            index += count
        }
    }
}

extension Machine {
    /// Makes `to` the page that `from` was: the same place in its mapping. Both are locked; `from` is mapped nowhere.
    /// Only anonymous pages move; file pages, which 6.12 collects, do not. False when it has users that `isExclusive`
    /// does not explain: then it stays.
    ///
    /// The swap cache knows a page by its frame, so it must let go of it first; a slot that entries still name keeps
    /// the page where it is.
    @inline(__always)
    package func moveIdentity(_ from: FrameNumber, to: FrameNumber, isExclusive: (FrameNumber) -> Bool) -> Bool {
        guard frames.mapping(ofHead: from).isAnonymous else { return false }
        if frames.hasFlags(from, FrameFlags.swapCache) {
            tryFreeSwap(from)
            if frames.hasFlags(from, FrameFlags.swapCache) { return false }
        }
        guard isExclusive(from) else { return false }
        frames.setMapping(to, frames.mapping(ofHead: from), index: frames.index(ofHead: from))
        return true
    }

    /// What a folio knows of its contents, and goes on knowing somewhere else.
    @inline(__always)
    package func movingFlags(_ from: FrameNumber, to: FrameNumber) -> UInt32 {
        let kept = frames.flags(from) & (FrameFlags.dirty | FrameFlags.referenced | FrameFlags.lazyFree)
        return kept | FrameFlags.upToDate | (frames.isDeviceFrame(to) ? 0 : FrameFlags.onLRU)
    }
}
