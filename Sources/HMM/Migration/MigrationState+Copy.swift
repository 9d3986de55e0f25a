import Synchronization

// Destinations, and the copy.
//
// The sources are stable: locked, unmapped, and mirrored by nobody but the caller, who has stopped its device on them.

extension MigrationState {
    func setDestination(_ frame: FrameNumber, at index: Int) {
        precondition(phase == .collected, "a destination is set between setup and commit")
        precondition(source[index] & MigrationWord.migrate != 0, "a destination for a page that does not migrate")
        precondition(destination[index] == 0, "a page has two destinations")
        precondition(frames.isLocked(frame), "a destination is locked")
        let isUnit = source[index] & MigrationWord.compound != 0
        precondition(
            frames.order(ofHead: frame) == (isUnit ? Geometry.pmdOrder : 0), "a destination of another size")
        destination[index] = UInt64(frame.raw) | HMMPageWord.valid
    }

    /// Pages that get their destinations together.
    private static let batchLimit = 512

    /// Copies what is collected and has no destination yet to a device, or, for nil, what is on one to system memory.
    func copy(to memory: DeviceMemory?, evicting: Bool) {
        var route = CopyRoute(machine, memory)
        copyUnits(to: memory, evicting: evicting, &route)
        let limit = Self.batchLimit
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: limit) { new in
            var index = 0
            while true {
                let wanted = countSingles(from: &index, limit: limit, to: memory)
                guard wanted > 0 else { return }
                var count = allocateSingles(wanted, into: new.baseAddress!, from: memory)
                if count < wanted, evicting, let memory {
                    _ = machine.evictLeastRecentlyUsed(of: memory, count: wanted - count)
                    count += allocateSingles(wanted - count, into: new.baseAddress! + count, from: memory)
                }
                let destinations = UnsafeMutableBufferPointer(rebasing: new[0..<count])
                destinations.sortByNumber()
                index = copySingles(from: index, UnsafeBufferPointer(destinations), to: memory, &route)
                if count < wanted {
                    missingDestinations += countRest(from: index, to: memory)
                    return
                }
            }
        }
    }

    private func allocateSingles(
        _ count: Int, into new: UnsafeMutablePointer<FrameNumber>, from memory: DeviceMemory?
    ) -> Int {
        memory?.allocateSingles(count, into: new) ?? frames.allocateLockedSingles(count, into: new)
    }

    /// Whether the page needs a destination there. What is on the device already stays; holes go to devices only.
    @inline(__always)
    private func wantsCopy(_ index: Int, to memory: DeviceMemory?) -> Bool {
        let word = source[index]
        guard word & MigrationWord.migrate != 0, destination[index] == 0 else { return false }
        guard word & MigrationWord.held != 0 else { return memory != nil }
        let zone = frames.zone(of: MigrationWord.frame(word))
        return zone != Int(memory?.zone ?? 0)
    }

    /// Moves `index` to the next single page that needs a destination, and counts those from there, up to `limit`.
    private func countSingles(from index: inout Int, limit: Int, to memory: DeviceMemory?) -> Int {
        while index < pages.pageCount, !wantsSingle(index, to: memory) { index += 1 }
        var count = 0
        var next = index
        while next < pages.pageCount, count < limit {
            if wantsSingle(next, to: memory) { count += 1 }
            next += 1
        }
        return count
    }

    @inline(__always)
    private func wantsSingle(_ index: Int, to memory: DeviceMemory?) -> Bool {
        source[index] & MigrationWord.compound == 0 && wantsCopy(index, to: memory)
    }

    private func countRest(from first: Int, to memory: DeviceMemory?) -> Int {
        var count = 0
        for index in first..<pages.pageCount where wantsSingle(index, to: memory) { count += 1 }
        return count
    }

    /// Uses all of `new`. Answers the index behind the last page that got one.
    private func copySingles(
        from first: Int, _ new: UnsafeBufferPointer<FrameNumber>, to memory: DeviceMemory?, _ route: inout CopyRoute
    ) -> Int {
        var index = first
        var used = 0
        var copied = 0
        while used < new.count {
            defer { index += 1 }
            guard wantsSingle(index, to: memory) else { continue }
            let frame = new[used]
            used += 1
            let word = source[index]
            if word & MigrationWord.held == 0 {
                clearPages(frames.bytes(of: frame))
            } else if route.copy(MigrationWord.frame(word), to: frame, pageCount: 1) {
                copied += 1
            } else {
                // Nothing is made up: the page stays where its bytes are.
                copyFailures += 1
                refuse(index)
                frames.unlockFolio(frame)
                frames.put(frame)
                continue
            }
            destination[index] = UInt64(frame.raw) | HMMPageWord.valid
        }
        machine.statistics.bytesCopied.add(UInt64(copied * Geometry.pageSizeBytes))
        return index
    }

    // MARK: Units

    /// Units go first. One that has no counterpart becomes single pages, or stays if it cannot.
    private func copyUnits(to memory: DeviceMemory?, evicting: Bool, _ route: inout CopyRoute) {
        guard movesUnits else { return }
        for index in 0..<pages.pageCount where source[index] & MigrationWord.compound != 0 {
            guard wantsCopy(index, to: memory) else { continue }
            if let unit = allocateUnit(memory, evicting: evicting) {
                copyUnit(index, to: unit, &route)
            } else if !decompose(unitAt: index) {
                refusedUnits = true
                refuse(index)
            }
        }
    }

    private func allocateUnit(_ memory: DeviceMemory?, evicting: Bool) -> FrameNumber? {
        let order = Geometry.pmdOrder
        guard let memory else { return frames.allocateLockedFolio(order: order) }
        if let head = memory.allocate(order: order) { return head }
        guard evicting, memory.frameLimit >= 1 << order else { return nil }
        _ = machine.evictLeastRecentlyUsed(of: memory, count: 1 << order)
        return memory.allocate(order: order)
    }

    private func copyUnit(_ index: Int, to unit: FrameNumber, _ route: inout CopyRoute) {
        let count = 1 << Geometry.pmdOrder
        if source[index] & MigrationWord.held == 0 {
            clearPages(frames.bytes(of: unit), count: count)
        } else if route.copy(MigrationWord.frame(source[index]), to: unit, pageCount: count) {
            machine.statistics.bytesCopied.add(UInt64(count * Geometry.pageSizeBytes))
        } else {
            copyFailures += count
            refuse(index)
            frames.unlockFolio(unit)
            frames.put(unit)
            return
        }
        destination[index] = UInt64(unit.raw) | HMMPageWord.valid
    }
}

/// Who copies: the host, or the engine of a device that is on either side. The source's zone is looked up once a run.
struct CopyRoute {
    private let frames: FrameTable
    private let target: (any DeviceCopyEngine)?
    private var sourceZone = -1
    private var engine: (any DeviceCopyEngine)?

    init(_ machine: Machine, _ memory: DeviceMemory?) {
        frames = machine.frames
        target = memory?.copyEngine
    }

    /// False when a device failed.
    @inline(__always)
    mutating func copy(_ source: FrameNumber, to destination: FrameNumber, pageCount: Int) -> Bool {
        let zone = frames.zone(of: source)
        if zone != sourceZone { lookUp(zone, source) }
        let (from, to) = (frames.bytes(of: source), frames.bytes(of: destination))
        if let engine { return engine.copy(from, to: to, pageCount: pageCount) }
        copyPages(from: from, to: to, count: pageCount)
        return true
    }

    private mutating func lookUp(_ zone: Int, _ source: FrameNumber) {
        sourceZone = zone
        engine = target ?? frames.deviceMemory(of: source)?.copyEngine
    }
}
