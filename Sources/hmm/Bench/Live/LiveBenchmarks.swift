import CBench
import CLive
import HMM
import HMMLive

// Rows on memory of this process, beside plain C that does the same with the kernel.

/// The rows of `hmm bench --live`, in the order in which they are printed.
enum LiveBenchmarks {
    static let all: [Benchmark] = [
        Benchmark(
            "live-fault", unit: "ns/fault", reference: "C: SIGBUS handler, UFFDIO_MOVE",
            goal: BenchGoal(ratioAtMost: 1.2)
        ) { row, scale in try measureFaults(row, scale, .onThread, around: 1) },
        Benchmark(
            "live-fault-around-16", unit: "ns/page", reference: "C: the same, 16 pages a fault",
            goal: BenchGoal(ratioAtMost: 1.2)
        ) { row, scale in try measureFaults(row, scale, .onThread, around: 16) },
        Benchmark(
            "live-fault-thread", unit: "ns/fault", reference: "C: handler thread, other processor",
            goal: BenchGoal(ratioAtMost: 1.1)
        ) { row, scale in try measureFaults(row, scale, .handlerThread, around: 1) },
        Benchmark(
            "live-move-4K", unit: "ns/page", reference: "UFFDIO_MOVE, both ways", goal: BenchGoal(ratioAtMost: 1.2)
        ) { row, scale in try measureMoves(row, scale, huge: false) },
        Benchmark(
            "live-move-2M", unit: "ns/2M", reference: "UFFDIO_MOVE, both ways", goal: BenchGoal(ratioAtMost: 1.2)
        ) { row, scale in try measureMoves(row, scale, huge: true) },
        Benchmark(
            "live-migrate-4K", unit: "ns/page", reference: "UFFDIO_MOVE, both ways", goal: BenchGoal(ratioAtMost: 1.2)
        ) { row, scale in try measureMigration(row, scale, huge: false) },
        Benchmark(
            "live-migrate-2M", unit: "ns/2M", reference: "UFFDIO_MOVE, both ways", goal: BenchGoal(ratioAtMost: 1.2)
        ) { row, scale in try measureMigration(row, scale, huge: true) },
        Benchmark("live-device-fault", unit: "ns/page", reference: "MADV_POPULATE_WRITE", measureDeviceFault),
        Benchmark("live-snapshot", unit: "ns/page", reference: "PAGEMAP_SCAN", measureSnapshot),
        Benchmark("live-protect-mirrored", unit: "ns/page", reference: "mprotect", measureProtect),
    ]

    /// A device takes all pages; then ordinary code reads a word of each, and each fault brings `around` pages home.
    /// Only the reads are measured.
    private static func measureFaults(
        _ row: BenchRow, _ scale: BenchScale, _ faults: LiveSpace.FaultPath, around: Int
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(faults == .onThread ? 4096 : 512, quick: 64)
        let memory = try LiveBenchMemory(count, faults: faults)
        let space = memory.space
        let device = try attach(to: space, pages: count)
        clive_set_fault_around(UInt32(around))
        defer { clive_set_fault_around(UInt32(space.configuration.faultAroundPages)) }
        var samples = Samples()
        try withLiveReference(pages: count, handlerThread: faults != .onThread) { live in
            // Each fault wakes the thread that answers, and is woken by it: where both run must be the same for both.
            let isApart = faults != .onThread && cbench_place_apart() == 0
            defer { if isApart { _ = cbench_place_anywhere() } }
            try samples.take(
                scale.samples,
                ours: {
                    let there = try device.prefetch(memory.pages)
                    try expect(there.moved == count, "\(there.moved) pages of \(count) went to the device")
                    var sum: UInt64 = 0
                    let taken = nanoseconds { sum = memory.sum() }
                    try expect(sum == memory.writtenSum, "a page lost what was written")
                    space.deliverInvalidations()
                    try expect(device.table.lookup(memory.pages.lowerBound) == nil, "the mirror kept an entry")
                    return (taken, sum)
                }, reference: { cbench_live_faults(&live, around) })
        }
        device.detach()
        try memory.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// Written memory goes to the device and comes back by its request, without being copied.
    private static func measureMigration(
        _ row: BenchRow, _ scale: BenchScale, huge: Bool
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: huge ? 1024 : 64)
        let memory = try LiveBenchMemory(count, huge: huge, faults: .onThread)
        let device = try attach(to: memory.space, pages: count)
        var samples = Samples()
        try withLiveReference(pages: count, huge: huge) { live in
            try samples.take(
                scale.samples,
                ours: {
                    var moved = 0
                    let taken = try nanoseconds {
                        moved += try device.prefetch(memory.pages).moved
                        moved += try device.evict(memory.pages).moved
                    }
                    try expect(moved == 2 * count, "\(moved) moves of \(2 * count)")
                    let sum = memory.sum()
                    try expect(sum == memory.writtenSum, "a page lost what was written")
                    return (taken, sum)
                }, reference: { cbench_live_move_both_ways(&live) })
        }
        device.detach()
        try memory.finish()
        return (samples.fill(row, perSample: Double(huge ? count >> Geometry.pmdOrder : count)), samples.checksum)
    }

    /// The moves alone, with the words that say where each page is: no device, no mirror, no frame is counted.
    private static func measureMoves(
        _ row: BenchRow, _ scale: BenchScale, huge: Bool
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: huge ? 1024 : 64)
        let memory = try LiveBenchMemory(count, huge: huge, faults: .onThread)
        let slots = DeviceMemory(
            kind: .private, owner: 1, limitBytes: 2 * count * Geometry.pageSizeBytes,
            frames: memory.space.machine.frames)
        var frames = [FrameNumber](repeating: .none, count: count)
        let found = frames.withUnsafeMutableBufferPointer { slots.allocateSingles(count, into: $0.baseAddress!) }
        try expect(found == count, "\(found) slots of \(count)")
        let table = memory.space.machine.frames
        for frame in frames { table.unlockFolio(frame) }
        // Neighbours go by one call.
        let numbers = frames.map(\.raw).sorted()
        var results = [UInt8](repeating: 0, count: count)
        let first = memory.pages.lowerBound.raw
        var samples = Samples()
        try withLiveReference(pages: count, huge: huge) { live in
            try samples.take(
                scale.samples,
                ours: {
                    var moved: Int32 = 0
                    memory.space.lockMappingsForReading()
                    let taken = nanoseconds {
                        moved += clive_take(first, numbers, count, 0, &results)
                        moved += clive_bring(first, count, &results, nil)
                    }
                    memory.space.unlockMappingsForReading()
                    try expect(moved == 2 * count, "\(moved) moves of \(2 * count)")
                    let sum = memory.sum()
                    try expect(sum == memory.writtenSum, "a page lost what was written")
                    return (taken, sum)
                }, reference: { cbench_live_move_both_ways(&live) })
        }
        for frame in frames { table.put(frame) }
        try memory.space.machine.remove(slots)
        try memory.finish()
        return (samples.fill(row, perSample: Double(huge ? count >> Geometry.pmdOrder : count)), samples.checksum)
    }

    /// A device with more memory than the row needs.
    private static func attach(to space: LiveSpace, pages: Int) throws -> SoftwareDevice {
        try SoftwareDevice.attach(
            to: space, index: 1,
            memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: 2 * pages * Geometry.pageSizeBytes))
    }
}

// MARK: Mirrors

extension LiveBenchmarks {
    /// A device writes to untouched memory: pages are made and mirrored where they are.
    @Sendable private static func measureDeviceFault(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(512, quick: 16)
        let memory = try LiveBenchMemory(count, faults: nil)
        let driver = try BenchDriver(memory.space, over: memory.pages)
        var samples = Samples()
        try samples.take(
            2 * scale.samples,
            ours: {
                let error = memory.space.advise(memory.pages, LiveBenchmarks.dontNeed)
                try expect(error == 0, "MADV_DONTNEED answers \(error)")
                let taken = try nanoseconds { try driver.fault(memory.pages, for: .write) }
                let (mirrored, _) = driver.contents(memory.pages)
                try expect(mirrored == count, "\(mirrored) pages of \(count) were mirrored")
                try expect(memory.sum() == 0, "a fresh page was not zero")
                return (taken, UInt64(mirrored))
            }, reference: { cbench_populate(count) })
        driver.close()
        try memory.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// MADV_DONTNEED.
    private static let dontNeed: Int32 = 4

    /// What is mapped where: one range fault that requests nothing.
    @Sendable private static func measureSnapshot(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: 64)
        let memory = try LiveBenchMemory(count, faults: nil)
        let driver = try BenchDriver(memory.space, over: memory.pages)
        var range = HMMRange(driver.interval, memory.pages)
        var samples = Samples()
        try withHostRegion(pages: count) { region in
            try samples.take(
                scale.samples,
                ours: {
                    let taken = try nanoseconds {
                        _ = try memory.space.deviceFault(
                            &range, commit: { (range: borrowing HMMRange) in !range.mustRetry() })
                    }
                    for index in 0..<count {
                        try expect(range[index].isValid && range[index].isWritable, "a written page was not seen")
                    }
                    return (taken, UInt64(count))
                },
                reference: {
                    var found: UInt64 = 0
                    let taken = cbench_pagemap_scan(&region, &found)
                    return taken < 0 || found == UInt64(count) ? taken : -Int64(HMMError.Code.inconsistent.rawValue)
                })
        }
        driver.close()
        try memory.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// The right to write is taken from a range that a device mirrors in full; the mirror loses everything.
    @Sendable private static func measureProtect(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: 64)
        let memory = try LiveBenchMemory(count, faults: nil)
        let driver = try BenchDriver(memory.space, over: memory.pages)
        var samples = Samples()
        try withHostRegion(pages: count) { region in
            try samples.take(
                scale.samples,
                ours: {
                    try driver.fault(memory.pages, for: .write)
                    let (mirrored, _) = driver.contents(memory.pages)
                    try expect(mirrored == count, "\(mirrored) pages of \(count) were mirrored")
                    var error: Int32 = 0
                    let taken = nanoseconds { error = memory.space.protect(memory.pages, LiveBenchmarks.read) }
                    try expect(error == 0, "mprotect answers \(error)")
                    try expect(driver.contents(memory.pages).pages == 0, "the mirror kept an entry")
                    error = memory.space.protect(memory.pages, LiveBenchmarks.readWrite)
                    try expect(error == 0, "mprotect answers \(error)")
                    return (taken, UInt64(mirrored))
                }, reference: { cbench_protect(&region) })
        }
        driver.close()
        try memory.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// PROT_READ, and PROT_READ | PROT_WRITE.
    private static let (read, readWrite): (Int32, Int32) = (1, 3)
}
