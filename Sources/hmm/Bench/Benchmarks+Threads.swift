import CBench
import HMM
import Synchronization

// Two threads that share an address space and nothing else.

extension Benchmarks {
    /// How much more two threads do than one, each writing to untouched pages of a mapping of its own.
    @Sendable static func measureTwoThreads(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let count = scale.pick(512, quick: 16)
        // Short, so that most samples fit between the turns of other programs.
        let rounds = scale.pick(8, quick: 2)
        let process = try BenchProcess(pages: 2 * count)
        let ranges = [0, 1].map { BenchProcess.range(count, at: $0 << 18) }
        for pages in ranges { try process.space.map(pages, protection: .readWrite, kind: .anonymous(huge: false)) }
        var ours = Pair()
        var reference = Pair()
        var checksum: UInt64 = 0
        for sample in 0...scale.pick(80, quick: 2) {
            let alone = try race(1) { number in faultOver(process, ranges[number], rounds) }
            let together = try race(2) { number in faultOver(process, ranges[number], rounds) }
            let hostAlone = try race(1) { _ in touchOver(count, rounds) }
            let hostTogether = try race(2) { _ in touchOver(count, rounds) }
            checksum = checksum &* 31 &+ alone.sum &+ together.sum &+ hostAlone.sum &+ hostTogether.sum
            guard sample > 0 else { continue }
            ours.add(alone.nanoseconds, together.nanoseconds)
            reference.add(hostAlone.nanoseconds, hostTogether.nanoseconds)
        }
        for pages in ranges { try process.space.unmap(pages) }
        try process.finish()
        var row = row
        row.ours = ours.speedup
        row.reference = reference.speedup
        return (row, checksum)
    }

    /// Times of one thread and of two.
    private struct Pair {
        private var alone: [Double] = []
        private var together: [Double] = []

        mutating func add(_ alone: Double, _ together: Double) {
            self.alone.append(alone)
            self.together.append(together)
        }

        /// The work that two threads do in the time of one. Two threads need two processors for the whole of a sample,
        /// so the samples that others disturbed are left out.
        var speedup: Double { 2 * Samples.calm(alone) / Samples.calm(together) }
    }

    /// Faults every page in and gives all back, again and again. Answers a sum over what was read, or nil.
    private static func faultOver(_ process: BenchProcess, _ pages: PageRange, _ rounds: Int) -> UInt64? {
        let cpu = process.space.makeCPU()
        defer { process.space.removeCPU(cpu) }
        var sum: UInt64 = 0
        do {
            for _ in 0..<rounds {
                for page in pages { try cpu.store(page.raw, at: page.address) }
                sum &+= try cpu.load(pages.lowerBound.address)
                try process.space.advise(pages, .dontneed)
            }
        } catch { return nil }
        return sum
    }

    private static func touchOver(_ count: Int, _ rounds: Int) -> UInt64? {
        for _ in 0..<rounds where cbench_touch(count) < 0 { return nil }
        return UInt64(count)
    }

    /// Runs `body` on so many threads that start together. Answers the time until the last is done.
    private static func race(
        _ threads: Int, _ body: @escaping @Sendable (Int) -> UInt64?
    ) throws -> (nanoseconds: Double, sum: UInt64) {
        let line = StartLine(threads)
        let running = (0..<threads).map { number in
            SyncThread.spawn(name: "bench-\(number)") {
                line.waitForAll()
                if let sum = body(number) { line.sum.wrappingAdd(sum, ordering: .relaxed) } else { line.fail() }
                line.leave()
            }
        }
        for thread in running { thread.join() }
        try expect(!line.hasFailed, "a thread could not do its work")
        return (line.nanoseconds, line.sum.load(ordering: .relaxed))
    }
}

/// Where threads wait for each other before they start, and the clock that runs until the last one is done.
private final class StartLine: Sendable {
    private let missing: Atomic<Int>
    private let begin = Atomic<UInt64>(0)
    private let end = Atomic<UInt64>(0)
    private let failures = Atomic<Int>(0)
    let sum = Atomic<UInt64>(0)

    init(_ threads: Int) { missing = Atomic(threads) }

    func waitForAll() {
        // Spins: the start must not depend on how fast somebody is woken.
        if missing.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
            begin.store(SyncClock.now(), ordering: .releasing)
        }
        while missing.load(ordering: .acquiring) > 0 { SyncThread.yield() }
    }

    func leave() { _ = end.max(SyncClock.now(), ordering: .acquiringAndReleasing) }
    func fail() { failures.add(1, ordering: .relaxed) }

    var hasFailed: Bool { failures.load(ordering: .relaxed) > 0 }
    var nanoseconds: Double {
        Double(end.load(ordering: .acquiring) - begin.load(ordering: .acquiring))
    }
}
