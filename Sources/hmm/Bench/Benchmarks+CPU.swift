import CBench
import HMM

// Rows that need no device: faults of CPUs, protect, fork, threads.

extension Benchmarks {
    static let cpuRows: [Benchmark] = [
        Benchmark("cpu-fault", unit: "ns/page", reference: "page fault", measureCPUFault),
        Benchmark("protect", unit: "ns/page", reference: "mprotect", measureProtect),
        Benchmark(
            "two-threads", unit: "x", reference: "two threads, page faults", goal: BenchGoal(atLeast: 1.8),
            measureTwoThreads),
        Benchmark("fork", unit: "ms/GiB", reference: "fork", measureFork),
    ]

    /// A write to every page of untouched memory, one fault a page, memory warm in the cache.
    @Sendable static func measureCPUFault(_ row: BenchRow, _ scale: BenchScale) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(512, quick: 16)
        let pages = BenchProcess.range(count)
        let process = try BenchProcess(pages: count)
        try process.space.map(pages, protection: .readWrite, kind: .anonymous(huge: false))
        let cpu = process.space.makeCPU()
        var samples = Samples()
        try samples.take(
            scale.samples,
            ours: {
                let taken = try nanoseconds { for page in pages { try cpu.store(page.raw, at: page.address) } }
                let sum = try process.sum(pages)
                try expect(sum == BenchProcess.writtenSum(pages), "a page lost what was written")
                try process.space.advise(pages, .dontneed)
                return (taken, sum)
            }, reference: { cbench_touch(count) })
        process.space.removeCPU(cpu)
        try process.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// The right to write is taken from a range that is mapped in full, with nobody to tell.
    @Sendable static func measureProtect(_ row: BenchRow, _ scale: BenchScale) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(16384, quick: 64)
        let pages = BenchProcess.range(count)
        let process = try BenchProcess(pages: count)
        try process.mapWritten(pages)
        var samples = Samples()
        try withHostRegion(pages: count) { region in
            try samples.take(
                scale.samples,
                ours: {
                    let taken = try nanoseconds { try process.space.protect(pages, .read) }
                    let sum = try process.sum(pages)
                    try expect(sum == BenchProcess.writtenSum(pages), "a page lost what was written")
                    try process.space.protect(pages, .readWrite)
                    return (taken, sum)
                }, reference: { cbench_protect(&region) })
        }
        try process.finish()
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// A process with 1 GiB of written 4 KiB pages forks. The child's end is not measured.
    @Sendable static func measureFork(_ row: BenchRow, _ scale: BenchScale) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(1 << 18, quick: 64)
        let pages = BenchProcess.range(count)
        var samples = Samples()
        let times = scale.pick(5, quick: 2)
        // The kernel first, and alone: it must not have our arena to copy.
        var reference: [Int64] = []
        try withHostRegion(pages: count) { region in
            for _ in 0...times { reference.append(cbench_fork(&region)) }
        }
        let process = try BenchProcess(pages: count)
        try process.mapWritten(pages)
        var next = 0
        try samples.take(
            times,
            ours: {
                var child: AddressSpace?
                let taken = try nanoseconds { child = try process.space.fork() }
                let cpu = child!.makeCPU()
                let sum = try cpu.load(pages.lowerBound.address) &+ cpu.load(pages.upperBound.advanced(by: -1).address)
                try expect(sum == 2 * pages.lowerBound.raw + UInt64(count) - 1, "the child has other bytes")
                child!.removeCPU(cpu)
                child!.exit()
                return (taken, sum)
            },
            reference: {
                defer { next += 1 }
                return reference[next]
            })
        try process.finish()
        let gibibytes = Double(count) / Double(1 << 18)
        return (samples.fill(row, perSample: 1e6 * gibibytes), samples.checksum)
    }
}
