import CBench
import HMM

// Rows of a device with memory of its own, and of exclusive access.

extension Benchmarks {
    static let migrationRows: [Benchmark] = [
        Benchmark(
            "migrate-4K", unit: "ns/page", reference: "memcpy, both ways", goal: BenchGoal(ratioAtMost: 1.3)
        ) { row, scale in try measureMigration(row, scale, huge: false) },
        Benchmark(
            "migrate-2M", unit: "ns/page", reference: "memcpy, both ways", goal: BenchGoal(ratioAtMost: 1.1)
        ) { row, scale in try measureMigration(row, scale, huge: true) },
        Benchmark(
            "exclusive", unit: "ns/page", reference: "mprotect none, mprotect rw, write", measureExclusive),
    ]

    /// Written memory moves to the device and back, with all its bytes; the device's table follows.
    @Sendable static func measureMigration(
        _ row: BenchRow, _ scale: BenchScale, huge: Bool
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: huge ? 512 : 64)
        let pages = BenchProcess.range(count)
        // Only later kernels move 2 MiB as one.
        let process = try BenchProcess(pages: 2 * count, profile: .next)
        try process.mapWritten(pages, huge: huge)
        let memory = DeviceMemory(
            kind: .private, owner: 1, limitBytes: 2 * count * Geometry.pageSizeBytes, frames: process.machine.frames)
        let driver = try BenchDriver(process.space, over: pages)
        let space = process.space
        var samples = Samples()
        // Backed as the model's memory is.
        try withHostRegion(pages: count, huge: true) { from in
            try withHostRegion(pages: count, huge: true) { to in
                try samples.take(
                    scale.samples,
                    ours: {
                        var moved = 0
                        var mirrored = MirrorStatistics()
                        let taken = try nanoseconds {
                            let there = try space.prefetch(
                                pages, to: memory, owner: BenchDriver.owner, map: driver.map)
                            mirrored = driver.table.statistics
                            let back = try space.evict(pages, from: memory, owner: BenchDriver.owner)
                            moved = there.moved + back.moved
                        }
                        try expect(moved == 2 * count, "\(moved) moves of \(2 * count)")
                        try expect(mirrored.mappedPages == count, "a page was not mirrored on the device")
                        let units = huge ? count >> Geometry.pmdOrder : 0
                        try expect(mirrored.hugeEntries == units, "a unit of 2 MiB did not move whole")
                        try expect(driver.contents(pages).pages == 0, "the mirror kept an entry of the device")
                        let sum = try process.sum(pages)
                        try expect(sum == BenchProcess.writtenSum(pages), "a page lost what was written")
                        return (taken, sum)
                    }, reference: { cbench_copy_both_ways(&from, &to) })
            }
        }
        driver.close()
        try process.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// A device takes each page exclusively and adds to it, then a CPU writes to it.
    @Sendable static func measureExclusive(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(512, quick: 16)
        let pages = BenchProcess.range(count)
        let process = try BenchProcess(pages: count)
        try process.mapWritten(pages)
        let driver = try BenchDriver(process.space, over: pages)
        let cpu = process.space.makeCPU()
        var rounds: UInt64 = 0
        var samples = Samples()
        try withHostRegion(pages: count) { region in
            try samples.take(
                scale.samples,
                ours: {
                    let taken = try nanoseconds {
                        for page in pages {
                            try driver.add(1, to: page, in: process.space)
                            _ = try cpu.fetchAdd(1, at: page.address)
                        }
                    }
                    rounds += 1
                    let sum = try process.sum(pages)
                    let expected = BenchProcess.writtenSum(pages) + 2 * rounds * UInt64(count)
                    try expect(sum == expected, "an atomic addition was lost")
                    return (taken, sum)
                }, reference: { cbench_revoke_each(&region) })
        }
        process.space.removeCPU(cpu)
        driver.close()
        try process.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }
}
