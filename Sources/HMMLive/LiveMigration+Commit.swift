import CLive
import Glibc
import HMM

// Commit: pages leave the devices that they are in, and go where they are bound for.

extension LiveMigration {
    func commit() {
        let invalidation = Invalidation.begin(space.notifiers, event)
        for index in 0..<pages.pageCount where source[index] & MigrationWord.migrate != 0 {
            if destination[index] == 0 { refuse(index) }
        }
        leaveDevices()
        if !isBoundForHome { enterDevice() }
        invalidation.end()
        phase = .committed
    }

    /// What is in a device's memory comes home first, also on its way to another.
    private func leaveDevices() {
        var index = 0
        while index < pages.pageCount {
            guard isMigratingFromDevice(index) else {
                index += 1
                continue
            }
            var end = index + 1
            while end < pages.pageCount, isMigratingFromDevice(end) { end += 1 }
            leave(index..<end)
            index = end
        }
    }

    @inline(__always)
    private func isMigratingFromDevice(_ index: Int) -> Bool {
        slots[index] != 0 && source[index] & MigrationWord.migrate != 0
    }

    private func leave(_ run: Range<Int>) {
        // A page that is counted where it is has nothing to be brought.
        let hasInPlace = run.contains { MigrationWord.frame(source[$0]).isLive }
        if hasInPlace { return leaveInPlace(run) }
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: run.count) { emptied in
            // A CPU or another device may come first: what came tells which slots are empty now.
            clive_bring(page(run.lowerBound).raw, run.count, nil, emptied.baseAddress!)
            for offset in 0..<run.count where emptied[offset] == 0 { refuse(run.lowerBound + offset) }
            noteLeft(space.giveBack(slots: emptied))
        }
    }

    func bring(_ page: PageNumber) -> Bool {
        var emptied: UInt32 = 0
        clive_bring(page.raw, 1, nil, &emptied)
        if emptied != 0 { space.giveBack(slot: FrameNumber(emptied)) }
        return emptied != 0
    }

    func noteLeft(_ moved: Int) {
        guard isBoundForHome else { return }
        movedCount += moved
        space.machine.statistics.pagesToSystem.add(UInt64(moved))
    }

    /// Runs of neighbours with one right go together.
    private func enterDevice() {
        var index = 0
        while index < pages.pageCount {
            guard source[index] & MigrationWord.migrate != 0 else {
                index += 1
                continue
            }
            var end = index + 1
            while end < pages.pageCount, source[end] & MigrationWord.migrate != 0, bits(end) == bits(index) { end += 1 }
            enter(index..<end, bits(index))
            index = end
        }
    }

    /// A hole obeys the mapping, and comes home as a page; what was there obeys its entry.
    private func bits(_ index: Int) -> UInt64 {
        let isHole = source[index] & MigrationWord.held == 0
        let isWritable = isHole ? fillsWritable : source[index] & HMMPageWord.write != 0
        return (isWritable ? 0 : UInt64(CLIVE_READONLY)) | (isHole ? UInt64(CLIVE_FRESH) : 0)
    }

    private func enter(_ run: Range<Int>, _ bits: UInt64) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: run.count) { results in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: run.count) { targets in
                for index in run { targets[index - run.lowerBound] = MigrationWord.frame(destination[index]).raw }
                let memory = frames.deviceMemory(of: FrameNumber(targets[0]))
                if !isMovable || memory?.kind == .coherent {
                    enterInPlace(run, memory, results)
                } else {
                    let first = page(run.lowerBound)
                    _ = clive_take(first.raw, targets.baseAddress!, run.count, bits, results.baseAddress!)
                }
                noteEntered(run, results)
            }
        }
    }

    private func noteEntered(_ run: Range<Int>, _ results: UnsafeMutableBufferPointer<UInt8>) {
        var entered = 0
        for index in run {
            guard results[index - run.lowerBound] == 0 else {
                refuse(index)
                continue
            }
            entered += 1
            if source[index] & MigrationWord.held == 0 { filledHoleCount += 1 } else { movedCount += 1 }
        }
        space.machine.statistics.pagesToDevice.add(UInt64(entered))
    }
}
