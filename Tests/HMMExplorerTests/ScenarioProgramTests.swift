import HMM
import HMMExplorer
import HMMScenario
import Testing

@Suite("Scenarios are explored")
struct ScenarioProgramTests {
    static let races = [
        "map a 1 rw\nrace\nthread one\ncpu write a 1\nthread two\ndev0 read a\nend\ncpu read a\n",
        "map a 1 rw\nrace\nthread one\ncpu write a 1\nthread two\ndev0 write a 2\nend\ncpu read a\n",
        "map a 1 rw\ncpu write a 1\nrace\nthread one\nadvise a dontneed\nthread two\ndev0 read a\nend\ncpu read a\n",
        "map a 1 rw\ncpu write a 1\nrace\nthread one\ndev0 migrate a\nthread two\ncpu write a 2\nend\ncpu read a\n",
        "map a 1 rw\ncpu write a 1\nrace\nthread one\ndev0 exclusive a\nthread two\ncpu write a 2\nend\ncpu read a\n",
        // What reclaim is about to write is not clean, whoever says so: the slot has the bytes of its former life.
        """
        map a 1 rw
        map b 1 rw
        cpu write b 7
        advise b pageout
        cpu read b
        cpu write a 1
        race
        thread one
        advise a pageout
        thread two
        advise a free
        end
        cpu read a

        """,
    ]

    @Test("The core stands every order", arguments: races)
    func everyOrder(_ text: String) throws {
        let scenario = try #require(try Parser.parse("== race\n" + text).first)
        let program = try ScenarioProgram(scenario)
        var options = ExplorationOptions()
        options.schedules = 20_000
        let exploration = explore(options) { scene in try program.run(scene) }
        if let failure = exploration.failure { Issue.record("\(failure.kind): \(failure.what)") }
    }
}
