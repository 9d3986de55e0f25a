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
