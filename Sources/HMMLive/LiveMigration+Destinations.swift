import CLive
import HMM

// Where pages go, and the end: slots that were got for nothing go back.

extension LiveMigration {
    /// 2 MiB of slots that were handed out as one folio: one lock, one reference and one place in the order of use,
    /// until a part of them is given back.
    struct Unit {
        /// The first of its pages.
        let index: Int
        let head: FrameNumber
        /// All of its pages went.
        var isIn = false

        static let pageCount = 1 << Geometry.pmdOrder
        var range: Range<Int> { index..<index + Self.pageCount }
    }

    func setDestination(_ frame: FrameNumber, at index: Int) {
        precondition(phase == .collected, "a destination is set between setup and commit")
        precondition(source[index] & MigrationWord.migrate != 0, "a destination for a page that does not migrate")
        precondition(destination[index] == 0, "a page has two destinations")
        destination[index] = UInt64(frame.raw) | HMMPageWord.valid
        destinationCount += 1
        hasSingles = true
    }

    func copy(to memory: DeviceMemory?, evicting: Bool) {
        isEvicting = evicting
        if let memory { bindForDevice(memory, evicting: evicting) } else { bindForHome() }
    }

    private func bindForHome() {
        isBoundForHome = true
        guard slotCount > 0 else { return }
        let (source, destination, slots) = (source, destination, slots)
        let (migrate, valid) = (MigrationWord.migrate, HMMPageWord.valid)
        var first = 0
        while first < pages.pageCount {
            // Live frames of a segment are numbered one after the other.
            let order = FrameNumber.liveSegmentOrder
            let segmentEnd = page(first).alignedDown(order: order).advanced(by: 1 << order)
            let end = min(pages.pageCount, index(of: segmentEnd))
            defer { first = end }
            guard let home = try? space.liveFrame(page(first)) else { continue }
            if slotCount == pages.pageCount, destinationCount == first {
                let word = valid | UInt64(home.raw)
                for i in 0..<end - first { destination[first + i] = word &+ UInt64(truncatingIfNeeded: i) }
                destinationCount += end - first
                continue
            }
            var bound = 0
            for i in first..<end where slots[i] != 0 && destination[i] == 0 && source[i] & migrate != 0 {
                destination[i] = UInt64(home.raw) + UInt64(i - first) | valid
                bound += 1
            }
            destinationCount += bound
        }
    }

    private func bindForDevice(_ memory: DeviceMemory, evicting: Bool) {
        if isMovable, memory.kind == .private { bindUnits(memory) }
        let wanted = destinationCount == pages.pageCount ? 0 : countWanted(memory)
        guard wanted > 0 else { return }
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: wanted) { new in
            var count = memory.allocateSingles(wanted, into: new.baseAddress!)
            if count < wanted, evicting {
                _ = space.evictLeastRecentlyUsed(of: memory, count: wanted - count)
                count += memory.allocateSingles(wanted - count, into: new.baseAddress! + count)
            }
            UnsafeMutableBufferPointer(rebasing: new[0..<count]).sortByNumber()
            var used = 0
            for index in 0..<pages.pageCount where used < count && wantsSlot(index, memory) {
                destination[index] = UInt64(new[used].raw) | HMMPageWord.valid
                used += 1
            }
            missingDestinations += wanted - count
            destinationCount += count
            hasSingles = hasSingles || count > 0
        }
    }

    /// What one table maps gets slots side by side, as one folio: a huge page goes in one piece, and the books are kept
    /// once for all of it.
    private func bindUnits(_ memory: DeviceMemory) {
        let size = Unit.pageCount
        let (source, destination, slots) = (source, destination, slots)
        let (migrate, valid) = (MigrationWord.migrate, HMMPageWord.valid)
        var first = (size - Int(pages.lowerBound.raw & UInt64(size - 1))) & (size - 1)
        while first + size <= pages.pageCount {
            defer { first += size }
            var (all, any) = (migrate, UInt64(0))
            for i in first..<first + size {
                all &= source[i]
                any |= destination[i] | UInt64(slots[i])
            }
            guard all != 0, any == 0 else { continue }
            guard let head = memory.allocate(order: Geometry.pmdOrder) else { return }
            let word = valid | UInt64(head.raw)
            for i in 0..<size { destination[first + i] = word &+ UInt64(truncatingIfNeeded: i) }
            units.append(Unit(index: first, head: head))
            destinationCount += size
        }
    }

    private func countWanted(_ memory: DeviceMemory) -> Int {
        var wanted = 0
        forEachOutsideUnits { for index in $0 where wantsSlot(index, memory) { wanted += 1 } }
        return wanted
    }

    @inline(__always)
    private func wantsSlot(_ index: Int, _ memory: DeviceMemory) -> Bool {
        guard source[index] & MigrationWord.migrate != 0, destination[index] == 0 else { return false }
        return slots[index] == 0 || !memory.contains(FrameNumber(slots[index]))
    }

    /// Calls `body` for what lies before, between and behind the units.
    func forEachOutsideUnits(_ body: (Range<Int>) -> Void) {
        var first = 0
        for unit in units {
            if first < unit.index { body(first..<unit.index) }
            first = unit.range.upperBound
        }
        if first < pages.pageCount { body(first..<pages.pageCount) }
    }

    // MARK: Finish

    func finish() {
        guard phase != .finished else { return }
        let isCommitted = phase == .committed
        for unit in units { finish(unit, isCommitted) }
        if hasSingles { forEachOutsideUnits { finish($0, isCommitted) } }
        phase = .finished
    }

    private func finish(_ range: Range<Int>, _ isCommitted: Bool) {
        let (source, destination) = (source, destination)
        for index in range where destination[index] != 0 {
            let frame = FrameNumber(truncating: destination[index])
            guard !frame.isLive else { continue }
            frames.unlockFolio(frame)
            if !isCommitted || source[index] & MigrationWord.migrate == 0 { frames.put(frame) }
        }
    }

    private func finish(_ unit: Unit, _ isCommitted: Bool) {
        let (source, migrate) = (source, MigrationWord.migrate)
        var went = unit.isIn ? Unit.pageCount : 0
        if isCommitted, !unit.isIn { for index in unit.range { went += source[index] & migrate == 0 ? 0 : 1 } }
        guard went > 0, went < Unit.pageCount else {
            frames.unlockFolio(unit.head)
            if went == 0 { frames.put(unit.head) }
            return
        }
        frames.get(unit.head)
        frames.splitUnmapped(unit.head)
        for index in unit.range where source[index] & migrate == 0 { frames.put(unit.head + (index - unit.index)) }
        frames.unlockFolio(unit.head)
        frames.put(unit.head)
    }
}
