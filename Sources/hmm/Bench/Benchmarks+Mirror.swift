import CBench
import HMM

// Rows of a device that mirrors system memory.

extension Benchmarks {
    static let mirrorRows: [Benchmark] = [
        Benchmark(
            "snapshot", unit: "ns/page", reference: "PAGEMAP_SCAN",
            goal: BenchGoal(atMost: 1, ratioAtMost: 1.0 / 30), measureSnapshot),
        Benchmark(
            "device-fault", unit: "ns/page", reference: "MADV_POPULATE_WRITE", goal: BenchGoal(atMost: 250),
            measureDeviceFault),
        Benchmark(
            "protect-invalidate", unit: "ns/page", reference: "mprotect", goal: BenchGoal(atMost: 20),
            measureProtectInvalidate),
        Benchmark(
            "mirror-bytes-per-GB-4K", unit: "bytes", reference: "2016 design: 8 bytes a page",
            goal: BenchGoal(atMost: (2.1 * 1_048_576).rounded(.down))
        ) { row, scale in try measureMirrorBytes(row, scale, huge: false) },
        Benchmark(
            "mirror-bytes-per-GB-2M", unit: "bytes", reference: "2016 design: 8 bytes a page",
            goal: BenchGoal(atMost: 16384)
        ) { row, scale in try measureMirrorBytes(row, scale, huge: true) },
    ]

    /// What is mapped where, of written 4 KiB pages: one range fault that requests nothing.
    @Sendable static func measureSnapshot(_ row: BenchRow, _ scale: BenchScale) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: 64)
        let pages = BenchProcess.range(count)
        let process = try BenchProcess(pages: count)
        try process.mapWritten(pages)
        let driver = try BenchDriver(process.space, over: pages)
        var range = HMMRange(driver.interval, pages)
        var samples = Samples()
        try withHostRegion(pages: count) { region in
            try samples.take(
                scale.samples,
                ours: {
                    let taken = try nanoseconds {
                        _ = try process.space.deviceFault(
                            &range, commit: { (range: borrowing HMMRange) in !range.mustRetry() })
                    }
                    var sum: UInt64 = 0
                    for index in 0..<count {
                        try expect(range[index].isValid && range[index].isWritable, "a written page was not seen")
                        sum = sum &* 31 &+ UInt64(range[index].frame.raw)
                    }
                    return (taken, sum)
                },
                reference: {
                    var found: UInt64 = 0
                    let taken = cbench_pagemap_scan(&region, &found)
                    return taken < 0 || found == UInt64(count) ? taken : -Int64(HMMError.Code.inconsistent.rawValue)
                })
        }
        driver.close()
        try process.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// A device writes to untouched memory: pages are made, zeroed, mapped and mirrored. Memory is warm in the cache.
    @Sendable static func measureDeviceFault(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(512, quick: 16)
        let pages = BenchProcess.range(count)
        let process = try BenchProcess(pages: count)
        try process.space.map(pages, protection: .readWrite, kind: .anonymous(huge: false))
        let driver = try BenchDriver(process.space, over: pages)
        var samples = Samples()
        try samples.take(
            2 * scale.samples,
            ours: {
                let taken = try nanoseconds { try driver.fault(pages, for: .write) }
                let (mirrored, _) = driver.contents(pages)
                try expect(mirrored == count, "\(mirrored) pages of \(count) were mirrored")
                let sum = try process.sum(pages)
                try expect(sum == 0, "a fresh page was not zero")
                // Dirty, so that the next round must clear them.
                try process.write(pages)
                try process.space.advise(pages, .dontneed)
                return (taken, UInt64(mirrored))
            }, reference: { cbench_populate(count) })
        driver.close()
        try process.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// The right to write is taken from a range that a device mirrors in full; the mirror loses everything.
    @Sendable static func measureProtectInvalidate(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: 64)
        let pages = BenchProcess.range(count)
        let process = try BenchProcess(pages: count)
        try process.mapWritten(pages)
        let driver = try BenchDriver(process.space, over: pages)
        var samples = Samples()
        try withHostRegion(pages: count) { region in
            try samples.take(
                scale.samples,
                ours: {
                    try driver.fault(pages, for: .write)
                    let (mirrored, sum) = driver.contents(pages)
                    try expect(mirrored == count, "\(mirrored) pages of \(count) were mirrored")
                    let taken = try nanoseconds { try process.space.protect(pages, .read) }
                    try expect(driver.contents(pages).pages == 0, "the mirror kept an entry")
                    try process.space.protect(pages, .readWrite)
                    return (taken, sum)
                }, reference: { cbench_protect(&region) })
        }
        driver.close()
        try process.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// The memory of a mirror's table with 1 GiB in it.
    ///
    /// The device reads untouched memory, so that the zero page is all the memory it takes.
    @Sendable static func measureMirrorBytes(
        _ row: BenchRow, _ scale: BenchScale, huge: Bool
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = 1 << 18
        let pages = BenchProcess.range(count)
        let process = try BenchProcess(pages: 1024)
        try process.space.map(pages, protection: .readWrite, kind: .anonymous(huge: huge))
        let driver = try BenchDriver(process.space, over: pages)
        try driver.fault(pages, for: .read)
        let statistics = driver.table.statistics
        try expect(statistics.mappedPages == count, "\(statistics.mappedPages) pages of \(count) were mirrored")
        try expect(statistics.hugeEntries == (huge ? count >> Geometry.pmdOrder : 0), "entries of another size")
        driver.close()
        try process.finish()
        var row = row
        row.ours = Double(statistics.bytes)
        row.reference = Double(count * 8)
        return (row, UInt64(statistics.bytes))
    }
}
