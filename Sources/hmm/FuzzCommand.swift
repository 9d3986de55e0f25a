import ArgumentParser
import Glibc
import HMM
import HMMScenario
import Synchronization

struct FuzzCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fuzz",
        abstract: "Play random scenarios beside a flat copy of what every page must hold.",
        discussion: """
            Each seed makes one scenario; seeds count up from --seed. After every statement all invariants of the \
            machine are checked and the answer is compared with the copy; at the end nothing may be left. The first \
            scenario that fails is shrunk, printed, and written to a file. Exit status 1 then.

            Families: \(ScenarioGenerator.familyNames.joined(separator: " ")).

            Examples:
              hmm fuzz --seed 1 --count 100000
              hmm fuzz --family hugecow --minutes 5 --kernel next
              hmm fuzz --shortage --seed 1 --count 10000
              hmm fuzz --seed 4711 --count 1 --print
            """)

    @Option(help: "The seed of the first scenario.")
    var seed: UInt64 = 1

    @Option(help: "How many scenarios.")
    var count: UInt64?

    @Option(help: "Stop after so many minutes. Without --count, only then.")
    var minutes: Double?

    @Option(help: "Only scenarios of this family; without it each seed says which.")
    var family: String?

    @Option(help: "Which kernel to answer as: 6.12 with its peculiarities, or next, which does what is right.")
    var kernel = Kernel.linux6_12

    @Flag(help: "Something runs out in each scenario: an allocation fails, or the devices have only a few pages.")
    var shortage = false

    @Option(help: "Threads; as many as there are processors, if not said.")
    var jobs: Int?

    @Option(help: "Where the shrunk scenario goes.", completion: .file(extensions: ["hmm"]))
    var output = "fuzz-failure.hmm"

    @Flag(name: .customLong("print"), help: "Print the scenarios instead of playing them.")
    var printsOnly = false

    @Flag(help: "Name each seed on standard error before it is played: tells which one a trap belongs to.")
    var trace = false

    func validate() throws {
        if let family, !ScenarioGenerator.familyNames.contains(family) {
            throw ValidationError("There is no family '\(family)'.")
        }
        if let jobs, jobs < 1 { throw ValidationError("At least one job is needed.") }
        if printsOnly, count == nil { throw ValidationError("--print needs --count.") }
    }

    func run() throws {
        let total = count ?? (minutes == nil ? 1000 : .max)
        if printsOnly {
            for index in 0..<total {
                Console.write(ScenarioGenerator.scenario(seed: seed &+ index, family: family).text)
            }
            return
        }
        let start = SyncClock.now()
        let campaign = FuzzCampaign(
            seed: seed, count: total, family: family, configuration: ShadowRun.configuration(kernel.profile),
            hasShortage: shortage, deadline: minutes.map { start + UInt64($0 * 60e9) }, traces: trace)
        let threads = (0..<(jobs ?? Console.processorCount)).map { index in
            SyncThread.spawn(name: "fuzz \(index)") { campaign.run(showsProgress: index == 0) }
        }
        threads.forEach { $0.join() }
        let milliseconds = (SyncClock.now() - start) / 1_000_000
        guard let failed = campaign.firstFailure else {
            let counts = "\(campaign.played) scenarios, \(campaign.statements) statements"
            Console.write("\(counts), clean, in \(milliseconds) ms\n")
            return
        }
        try report(failed)
        throw ExitCode(1)
    }

    private func report(_ failed: (seed: UInt64, failure: FuzzFailure)) throws {
        let configuration = ShadowRun.configuration(kernel.profile)
        let scenario = ScenarioGenerator.scenario(seed: failed.seed, family: family)
        let disturbance = shortage ? ShadowRun.shortage(ofSeed: failed.seed) : .none
        let small = Shrinker.shrink(scenario) { ShadowRun.firstFailure($0, configuration, disturbance) != nil }
        let failure = ShadowRun.firstFailure(small, configuration, disturbance) ?? failed.failure
        let options = (family.map { " --family \($0)" } ?? "") + (shortage ? " --shortage" : "")
        Console.write(
            """
            seed \(failed.seed): \(failed.failure)
            shrunk to \(small.statements.count) statements: \(failure)

            \(small.text)
            the whole:   hmm fuzz --seed \(failed.seed) --count 1\(options) --kernel \(kernel.rawValue)
            the shrunk:  hmm run --check --kernel \(kernel.rawValue) \(output)

            """)
        guard let file = fopen(output, "w") else {
            Console.complain("hmm: \(output) cannot be written: \(String(cString: strerror(errno)))")
            return
        }
        fputs(small.text, file)
        fclose(file)
    }
}

/// Seeds that several threads play, each taking the next one, until one fails or all are done.
private final class FuzzCampaign: @unchecked Sendable {
    private let seed: UInt64
    private let count: UInt64
    private let family: String?
    private let configuration: MachineConfiguration
    private let hasShortage: Bool
    private let deadline: UInt64?
    private let traces: Bool
    private let next = Atomic<UInt64>(0)
    private let playedCount = Atomic<UInt64>(0)
    private let statementCount = Atomic<UInt64>(0)
    private let isStopped = Atomic<Bool>(false)
    private let lock = SpinLock(.leaf)
    /// That of the smallest seed, whichever thread was first. Guarded by `lock`.
    private var failed: (seed: UInt64, failure: FuzzFailure)?

    init(
        seed: UInt64, count: UInt64, family: String?, configuration: MachineConfiguration, hasShortage: Bool,
        deadline: UInt64?, traces: Bool
    ) {
        self.seed = seed
        self.count = count
        self.family = family
        self.configuration = configuration
        self.hasShortage = hasShortage
        self.deadline = deadline
        self.traces = traces
    }

    var firstFailure: (seed: UInt64, failure: FuzzFailure)? { lock.withLock { failed } }
    var played: UInt64 { playedCount.load(ordering: .relaxed) }
    var statements: UInt64 { statementCount.load(ordering: .relaxed) }

    func run(showsProgress: Bool) {
        let showsProgress = showsProgress && isatty(STDERR_FILENO) == 1
        var lastShown = SyncClock.now()
        while !isStopped.load(ordering: .relaxed) {
            let now = SyncClock.now()
            if let deadline, now > deadline { break }
            let index = next.add(1, ordering: .relaxed).oldValue
            guard index < count else { break }
            play(seed &+ index)
            if showsProgress, now - lastShown > 500_000_000 {
                showProgress("\r\(played) scenarios")
                lastShown = now
            }
        }
        if showsProgress { showProgress("\r\u{1b}[K") }
    }

    private func showProgress(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.write(STDERR_FILENO, bytes, bytes.count)
    }

    private func play(_ seed: UInt64) {
        let scenario = ScenarioGenerator.scenario(seed: seed, family: family)
        if traces { Console.complain("seed \(seed)") }
        let disturbance = hasShortage ? ShadowRun.shortage(ofSeed: seed) : .none
        if let failure = ShadowRun.firstFailure(scenario, configuration, disturbance) {
            lock.withLock {
                if failed == nil || failed!.seed > seed { failed = (seed, failure) }
            }
            isStopped.store(true, ordering: .relaxed)
        }
        playedCount.add(1, ordering: .relaxed)
        statementCount.add(UInt64(scenario.statements.count), ordering: .relaxed)
    }
}
