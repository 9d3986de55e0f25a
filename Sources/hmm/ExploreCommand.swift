import ArgumentParser
import Glibc
import HMM
import HMMExplorer
import HMMScenario
import Museum

struct ExploreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explore",
        abstract: "Run the races of scenarios, or of real bugs of the past, in every order.",
        discussion: """
            The threads of each 'race … end' run one at a time, switched at every lock, wait and shared word, by the \
            same code that 'hmm run' plays. Checked are: every value that is read, against the legal orders of the \
            statements; the 'expect' lines; the invariants of the machine; mirrors that say more than the page table; \
            deadlocks, livelocks and the order of locks; and that nothing is left over. A schedule that goes wrong is \
            made small and shown, one column a thread, with a token that reproduces it.

            Strategies:
              exhaustive  all orders that can be told apart, by partial-order reduction; says when that was all
              bounded:K   all orders with at most K preemptions
              pct:D       random priorities: each schedule finds a bug that takes D ordering constraints with a \
            probability of at least 1 in N * S^(D-1), for N threads and S steps
              random      any thread at any step

            --museum runs wrong versions of operations and drivers, as history had them, and prints what finds each \
            (strategy, schedules to the first failure, kind); status 0 only if all were found. With --mended it runs \
            what replaced them.

            Exit status: 0; 1 if something went wrong, or an exhibit was not found; 64 if a file or the command line \
            has errors; 66 if a file cannot be read.

            Examples:
              hmm explore Examples/scenarios/*.hmm
              hmm explore --strategy pct:3 --seconds 10 Examples/scenarios/racing-unmap.hmm
              hmm explore --museum
              hmm explore --museum --scenario sequence-sampled-late --html bug.html
            """)

    @Argument(help: "Files with scenarios; '-' is standard input.", completion: .file(extensions: ["hmm"]))
    var files: [String] = []

    @Flag(help: "Explore the exhibits of the museum instead of files.")
    var museum = false

    @Flag(help: "With --museum: the versions that replaced what was wrong, exhaustively where that is possible.")
    var mended = false

    @Option(
        help: "exhaustive, bounded:K, pct:D or random. (default: exhaustive; an exhibit's own)",
        transform: Self.strategy)
    var strategy: ExplorationStrategy?

    @Option(help: "Stop after so many schedules of each. (default: 1000000; 10000 of an exhibit as it was)")
    var schedules: Int?

    @Option(help: "Stop after so many seconds of each.")
    var seconds: Double?

    @Option(
        help: """
            Past so many steps of a schedule its threads take turns; what does not end then is a livelock. (default: \
            10000; an exhibit's own)
            """)
    var steps: Int?

    @Option(help: "The seed of the random strategies.")
    var seed: UInt64 = 1

    @Option(help: "Threads; as many as there are processors, if not said.")
    var jobs: Int?

    @Option(name: .customLong("scenario"), help: "Only scenarios or exhibits whose name matches; '*' is any text.")
    var pattern: String?

    @Option(help: "Run one schedule: the one that this token of a failure names.")
    var replay: String?

    @Option(help: "Also write what went wrong as a page.", completion: .file(extensions: ["html"]))
    var html: String?

    @Option(help: "Write the first scenario that fails here, with the statements it takes.")
    var output: String?

    @Flag(help: "Print JSON: an array with an object for each scenario or exhibit.")
    var json = false

    @Option(help: "Which kernel scenarios answer as: 6.12 with its peculiarities, or next, which does what is right.")
    var kernel = Kernel.linux6_12

    func validate() throws {
        if museum == !files.isEmpty { throw ValidationError("Name files, or say --museum.") }
        if mended, !museum { throw ValidationError("--mended goes with --museum.") }
        if let jobs, jobs < 1 { throw ValidationError("At least one job is needed.") }
        if let schedules, schedules < 1 { throw ValidationError("At least one schedule is needed.") }
        if let steps, !(1...Self.mostSteps ~= steps) {
            throw ValidationError("--steps is from 1 to \(Self.mostSteps).")
        }
        if let seconds, !(seconds > 0) { throw ValidationError("--seconds must be more than 0.") }
        if output != nil, museum { throw ValidationError("--output is for scenarios.") }
    }

    func run() throws {
        var subjects = museum ? try exhibits() : try scenarios()
        if let replay { try prepareReplay(of: replay, &subjects) }
        let progress = ExplorationProgress(subjects: subjects.count)
        Interruption.watch()
        let split = splits(subjects)
        let report = ExplorationReport(
            subjects: subjects, isJSON: json, isSearch: museum && !mended, showsText: !museum || subjects.count == 1)
        let results: [ExplorationResult]
        if split > 1 {
            results = [ExplorationJobs.runOne(subjects[0], parts: split, progress)]
            report.add(results[0], at: 0)
        } else {
            results = ExplorationJobs.runAll(subjects, jobs: jobs ?? Console.processorCount, progress, report)
        }
        progress.clear()
        report.finish()
        try writeFiles(results)
        if Interruption.hasCome {
            Console.complain("hmm: interrupted; what is shown was explored as far as it says")
            throw ExitCode(130)
        }
        let isGood = results.allSatisfy { museum && !mended ? $0.isFound : $0.isGood }
        if !isGood { throw ExitCode(1) }
    }

    // MARK: What is explored

    private func options(_ base: ExplorationOptions, schedules count: Int) -> ExplorationOptions {
        var options = base
        if let strategy { options.strategy = strategy }
        options.schedules = schedules ?? count
        options.seconds = seconds ?? .infinity
        options.seed = seed
        if let steps { options.stepLimit = steps }
        return options
    }

    private func scenarios() throws -> [ExplorationSubject] {
        var base = ExplorationOptions()
        base.machine = .small
        base.machine.profile = kernel.profile
        return try ScenarioFiles.read(files, matching: pattern).flatMap { source in
            source.scenarios.map { scenario in
                ExplorationSubject(
                    scenario, of: source.file, options(base, schedules: Self.scenarioSchedules), kernel.rawValue)
            }
        }
    }

    private func exhibits() throws -> [ExplorationSubject] {
        let chosen = Museum.exhibits.filter { exhibit in
            pattern.map { Pattern(glob: $0).matches(exhibit.name) } ?? true
        }
        if chosen.isEmpty { throw ValidationError("No exhibit's name matches '\(pattern ?? "")'.") }
        return chosen.map { exhibit in
            // A mended version that is to be covered has no limit but what is said.
            let count = !mended ? Exhibit.schedules : exhibit.isExhaustive ? Int.max : Self.scenarioSchedules
            var base = exhibit.options
            if mended, exhibit.isExhaustive { base.strategy = .exhaustive }
            return ExplorationSubject(exhibit, mended ? .mended : .asItWas, options(base, schedules: count))
        }
    }

    private static let scenarioSchedules = 1_000_000
    /// What is noted of each step takes memory for the longest schedule.
    private static let mostSteps = 10_000_000

    private func prepareReplay(of text: String, _ subjects: inout [ExplorationSubject]) throws {
        guard subjects.count == 1 else {
            throw ValidationError("--replay is for one scenario or exhibit; --scenario chooses one.")
        }
        do throws(ReplayTokenError) {
            try subjects[0].options.replay(ReplayToken(text))
        } catch {
            throw ValidationError("\(error).")
        }
    }

    /// Over how many jobs the schedules of a single subject are split: where each job can draw its own.
    private func splits(_ subjects: [ExplorationSubject]) -> Int {
        guard subjects.count == 1, replay == nil else { return 1 }
        switch subjects[0].options.strategy {
        case .pct, .random: return min(jobs ?? Console.processorCount, subjects[0].options.schedules)
        case .exhaustive, .bounded, .unreduced: return 1
        }
    }

    // MARK: Files

    private func writeFiles(_ results: [ExplorationResult]) throws {
        let failed = results.filter { $0.exploration.failure != nil }
        if let html {
            let sections = failed.compactMap { result in
                (result.shrunkFailure ?? result.exploration.failure).map {
                    FailurePage.Section(
                        title: result.name, lead: result.lead, failure: $0,
                        program: (result.shrunk ?? result.scenario)?.text ?? "", replay: result.replayLine)
                }
            }
            try write(FailurePage.html(title: "hmm explore", sections), to: html)
        }
        if let output, let first = failed.first, let small = first.shrunk ?? first.scenario {
            try write(small.text, to: output)
        }
    }

    private func write(_ text: String, to path: String) throws {
        guard let file = fopen(path, "w") else {
            Console.complain("hmm: \(path) cannot be written: \(String(cString: strerror(errno)))")
            throw ExitCode(73)
        }
        fputs(text, file)
        fclose(file)
    }
}

extension ExploreCommand {
    /// More preemptions or changes than any schedule has steps say nothing.
    private static let largestNumber = 1_000

    static func strategy(_ text: String) throws -> ExplorationStrategy {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let number = parts.count == 2 ? Int(parts[1]) : nil
        switch (parts[0], parts.count, number) {
        case ("exhaustive", 1, _): return .exhaustive
        case ("random", 1, _): return .random
        case ("unreduced", 1, _): return .unreduced
        case ("bounded", 2, let limit?) where 0...largestNumber ~= limit: return .bounded(limit)
        case ("pct", 2, let depth?) where 1...largestNumber ~= depth: return .pct(depth)
        default:
            throw ValidationError(
                "A strategy is exhaustive, random, bounded:K with K from 0 to \(largestNumber), or pct:D with D from "
                    + "1 to \(largestNumber); and unreduced, which is exhaustive without reduction.")
        }
    }
}
