import CLive
import Glibc
import HMM

// Commit: pages leave the devices that they are in, and go where they are bound for.

extension LiveMigration {
    func commit() {
        let invalidation = Invalidation.begin(space.notifiers, event)
        if destinationCount < collectedCount { refuseWithout() }
        if slotCount > 0 { leaveDevices() }
        if !isBoundForHome { enterDevice() }
        invalidation.end()
        phase = .committed
    }

    /// Pages that got no destination stay.
    private func refuseWithout() {
        let (source, destination, migrate) = (source, destination, MigrationWord.migrate)
        for index in 0..<pages.pageCount where destination[index] == 0 { source[index] &= ~migrate }
    }

    /// What is in a device's memory comes home first, also on its way to another.
    private func leaveDevices() {
        if slotCount == pages.pageCount, destinationCount == pages.pageCount { return leave(0..<pages.pageCount) }
        let (source, slots, migrate) = (source, slots, MigrationWord.migrate)
        var index = 0
        while index < pages.pageCount {
            var end = index
            while end < pages.pageCount, slots[end] != 0, source[end] & migrate != 0 { end += 1 }
            if end > index { leave(index..<end) }
            index = end + 1
        }
    }

    private func leave(_ run: Range<Int>) {
        // A page that is counted where it is has nothing to be brought.
        if hasInPlace, run.contains(where: { FrameNumber(truncating: source[$0]).isLive }) {
            return leaveInPlace(run)
        }
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: run.count) { emptied in
            // A CPU or another device may come first: what came tells which slots are empty now.
            let came = clive_bring(page(run.lowerBound).raw, run.count, nil, emptied.baseAddress!)
            if Int(came) < run.count {
                for offset in 0..<run.count where emptied[offset] == 0 { refuse(run.lowerBound + offset) }
            }
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
        if plainCount == pages.pageCount, destinationCount == pages.pageCount {
            return enter(0..<pages.pageCount, isHole: false)
        }
        let source = source
        let kind = MigrationWord.migrate | MigrationWord.held | HMMPageWord.write
        var index = 0
        while index < pages.pageCount {
            let word = source[index] & kind
            var end = index + 1
            while end < pages.pageCount, source[end] & kind == word { end += 1 }
            if word & MigrationWord.migrate != 0 { enter(index..<end, isHole: word & MigrationWord.held == 0) }
            index = end
        }
    }

    /// Pages of one right, or holes.
    private func enter(_ run: Range<Int>, isHole: Bool) {
        // A hole obeys the mapping, and comes home as a page; what was there obeys its entry.
        let isWritable = isHole ? fillsWritable : source[run.lowerBound] & HMMPageWord.write != 0
        let bits = (isWritable ? 0 : UInt64(CLIVE_READONLY)) | (isHole ? UInt64(CLIVE_FRESH) : 0)
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: run.count) { results in
            let memory = frames.deviceMemory(of: MigrationWord.frame(destination[run.lowerBound]))
            var entered = 0
            if !isMovable || memory?.kind == .coherent {
                enterInPlace(run, memory, results)
            } else {
                entered = take(run, bits, results)
            }
            if entered < run.count { entered = refuseFailed(run, results) }
            if isHole { filledHoleCount += entered } else { movedCount += entered }
            space.machine.statistics.pagesToDevice.add(UInt64(entered))
        }
    }

    /// Answers how many went.
    private func take(
        _ run: Range<Int>, _ bits: UInt64, _ results: UnsafeMutableBufferPointer<UInt8>
    ) -> Int {
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: run.count) { targets in
            let destination = destination + run.lowerBound
            let out = targets.baseAddress!
            for offset in 0..<run.count { out[offset] = UInt32(truncatingIfNeeded: destination[offset]) }
            let first = page(run.lowerBound)
            let taken = clive_take(first.raw, out, run.count, bits, results.baseAddress!)
            if Int(taken) == run.count { joinUnits(run) }
            return Int(taken)
        }
    }

    /// What went whole a device may map whole.
    private func joinUnits(_ run: Range<Int>) {
        for index in units.indices
        where run.lowerBound <= units[index].index && units[index].range.upperBound <= run.upperBound {
            units[index].isIn = true
            if request.select.contains(.compound) { source[units[index].index] |= MigrationWord.compound }
        }
    }

    /// Answers how many of the run are in.
    private func refuseFailed(_ run: Range<Int>, _ results: UnsafeMutableBufferPointer<UInt8>) -> Int {
        var entered = run.count
        for offset in 0..<run.count where results[offset] != 0 {
            refuse(run.lowerBound + offset)
            entered -= 1
        }
        return entered
    }
}
