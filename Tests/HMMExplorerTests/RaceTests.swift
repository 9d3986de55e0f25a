import HMMExplorer
import HMMScenario
import Testing

/// The scenarios of `Conformance/races`, a file a test. What a full search takes is in `Documentation/races.md`; here
/// each scenario gets a budget, and what the exhaustive search leaves out is tried at random.
@Suite("Races of every pair of operations")
struct RaceTests {
    #if DEBUG
        private static let exhaustiveSchedules = 60
        private static let randomSchedules = 20
        private static let threeThreadSchedules = 100
    #else
        private static let exhaustiveSchedules = 20_000
        private static let randomSchedules = 300
        private static let threeThreadSchedules = 300
    #endif

    @Test("The core stands every order of two threads", arguments: RaceFiles.twoThreads + RaceFiles.kinds)
    func twoThreads(_ file: String) throws {
        for scenario in try RaceFiles.scenarios(of: file) {
            let program = try ScenarioProgram(scenario)
            let search = run(program, .exhaustive, schedules: Self.exhaustiveSchedules)
            if search.failure == nil, !search.isComplete {
                _ = run(program, .pct(3), schedules: Self.randomSchedules)
            }
        }
    }

    @Test("The core stands random orders of three threads", arguments: RaceFiles.threeThreads)
    func threeThreads(_ file: String) throws {
        for scenario in try RaceFiles.scenarios(of: file) {
            _ = run(try ScenarioProgram(scenario), .pct(3), schedules: Self.threeThreadSchedules)
        }
    }

    @Test("Every pair of operations is there, on one page and on two") func everyPairIsThere() throws {
        let names = Set(try RaceFiles.twoThreads.flatMap { try RaceFiles.scenarios(of: $0).map(\.name) })
        for (index, operation) in RaceFiles.operations.enumerated() {
            for other in RaceFiles.operations[...index] {
                #expect(names.contains("\(operation)-and-\(other)"))
                #expect(names.contains("\(operation)-and-\(other)-2-pages"))
            }
        }
    }

    private func run(_ program: ScenarioProgram, _ strategy: ExplorationStrategy, schedules: Int) -> Exploration {
        var options = ExplorationOptions()
        options.strategy = strategy
        options.schedules = schedules
        let exploration = explore(options) { scene in try program.run(scene) }
        if let failure = exploration.failure {
            Issue.record("\(program.scenario.name), \(strategy): \(failure.kind): \(failure.what)")
        }
        return exploration
    }
}

enum RaceFiles {
    static let operations =
        ["cpu-read", "cpu-write", "dev-read", "dev-write"] + twoThreads.dropFirst()
    /// In the order in which pairs are made: a file has the pairs with those before it.
    static let twoThreads = [
        "access", "protect", "unmap", "move", "dontneed", "fork", "exit", "pageout", "migrate", "evict", "release",
        "exclusive", "split", "collapse", "populate", "open", "close",
    ]
    /// Races that are no pair of operations on ordinary memory.
    static let kinds = ["memory-kinds"]
    static let threeThreads =
        ["access", "exclusive", "huge-pages", "memory-kinds", "migration", "notifiers", "processes"]
        .map { "three-threads/" + $0 }

    private static let root =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Conformance/races/"

    static func scenarios(of file: String) throws -> [Scenario] {
        try Parser.parse(TextFile.read(root + file + ".hmm"))
    }
}
