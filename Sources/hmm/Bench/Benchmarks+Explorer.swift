import CBench
import HMM
import HMMExplorer
import Synchronization

// What exploring costs: a step with its choice and its switch, and a whole schedule on a clean machine.

extension Benchmarks {
    static let explorerRows: [Benchmark] = [
        Benchmark(
            "explore-step", unit: "ns/step", reference: "swapcontext", goal: BenchGoal(atMost: 50), measureStep),
        Benchmark(
            "explore-schedules", unit: "schedules/s", reference: "none", goal: BenchGoal(atLeast: 60_000),
            measureSchedules),
    ]

    /// Two threads that read words of their own: every step is a choice, half of them switch.
    @Sendable static func measureStep(_ row: BenchRow, _ scale: BenchScale) throws -> (BenchRow, checksum: UInt64) {
        let steps = scale.pick(1000, quick: 50)
        let count = scale.pick(2_000_000, quick: 1000)
        let words = (UnsafeMutablePointer<UInt64>.allocate(capacity: 2))
        defer { words.deallocate() }
        var samples = Samples()
        var options = ExplorationOptions()
        options.strategy = .random
        options.schedules = count / (2 * steps)
        try samples.take(
            scale.samples,
            ours: {
                let exploration = explore(options) { scene in
                    for thread in 0..<2 {
                        let key = UInt(bitPattern: words + thread)
                        scene.thread("reader") { for _ in 0..<steps { schedulingPoint(.load, on: key) } }
                    }
                    scene.join()
                }
                try expect(exploration.failure == nil, "a schedule without a race failed")
                // In nanoseconds for as many steps as the reference has switches.
                let perStep = exploration.seconds * 1e9 / Double(exploration.steps)
                return (UInt64(perStep * Double(count)), 1)
            }, reference: { cbench_swapcontext(count) })
        return (samples.fill(row, perSample: Double(count)), samples.checksum)
    }

    /// A CPU and a device of the reference driver write to one page: process, mirror and mapping are made, the race is
    /// run with all checks, and everything is taken away again.
    @Sendable static func measureSchedules(
        _ row: BenchRow, _ scale: BenchScale
    ) throws -> (BenchRow, checksum: UInt64) {
        let page = BenchProcess.range(1)
        var rates: [Double] = []
        var checksum: UInt64 = 0
        for sample in 0...scale.pick(5, quick: 1) {
            var options = ExplorationOptions()
            options.strategy = .random
            options.seed = UInt64(sample + 1)
            options.schedules = scale.pick(20_000, quick: 100)
            let exploration = explore(options) { scene in try raceOnOnePage(scene, page) }
            if let failure = exploration.failure { throw BenchFailure(failure.what) }
            checksum &+= UInt64(exploration.schedules)
            if sample > 0 { rates.append(Double(exploration.schedules) / exploration.seconds) }
        }
        var row = row
        row.ours = Samples.median(rates)
        return (row, checksum)
    }

    private static func raceOnOnePage(_ scene: Scene, _ pages: PageRange) throws {
        let space = try scene.machine.makeAddressSpace()
        let device = try DmirrorDevice(machine: scene.machine, name: "dev0", kind: .private, index: 0)
        let mirror = try device.open(space)
        try space.map(pages, protection: .readWrite, kind: .anonymous(huge: false))
        let cpu = space.makeCPU()
        let address = pages.lowerBound.address
        scene.thread("cpu") { try cpu.store(1, at: address) }
        scene.thread("device") {
            try withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Geometry.wordsPerPage) { words in
                words.initialize(repeating: 2)
                _ = try mirror.write(pages, from: UnsafeBufferPointer(words))
            }
        }
        scene.join()
        let value = try cpu.load(address)
        scene.check(value == 1 || value == 2, "the page holds \(value)")
        scene.expectInvariants()
        space.removeCPU(cpu)
        space.exit()
        mirror.close()
        try device.remove()
    }
}
