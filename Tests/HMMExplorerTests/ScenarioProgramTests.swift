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
        if let failure = try search(text).failure { Issue.record("\(failure.kind): \(failure.what)") }
    }

    private func search(_ text: String, _ profile: KernelProfile = .linux6_12) throws -> Exploration {
        var options = ExplorationOptions()
        options.schedules = 20_000
        options.machine.profile = profile
        let program = try ScenarioProgram(try #require(try Parser.parse("== race\n" + text).first), options.machine)
        return explore(options) { scene in try program.run(scene) }
    }

    // MARK: The bytes of a page

    @Test("Whose access to a page comes last is told apart", arguments: [
        ("dev0 write a 5", "cpu write a 3"), ("cpu write a 5", "dev0 write a 3"), ("dev0 write a 5", "dev1 write a 3"),
    ])
    func lastWriter(_ one: String, _ two: String) throws {
        for expected in [5, 3] {
            let exploration = try search(
                """
                map a 1 rw
                cpu write a 1
                dev0 write a 2
                dev1 write a 2
                race
                thread one
                \(one)
                thread two
                \(two)
                end
                cpu read a
                expect \(expected)

                """)
            #expect(exploration.failure?.kind == .expectation)
        }
    }

    @Test("A device that reads before a write and one that reads after it are told apart", arguments: [2, 3])
    func readerAndWriter(_ value: Int) throws {
        let exploration = try search(
            "map a 1 rw\ndev0 write a 2\nrace\nthread one\ndev0 read a\nexpect * values \(value)\n"
                + "thread two\ncpu write a 3\nend\n")
        #expect(exploration.failure?.kind == .expectation)
    }

    // MARK: What is expected

    @Test("An expectation that fails is told with what was answered; before a race nothing else is shown")
    func expectation() throws {
        let start = "map a 1 rw\ncpu write a 1\n"
        let race = "race\nthread one\ncpu write a 2\nexpect error E*\nthread two\ndev0 read a\nend\n"
        let inside = try #require(try search(start + race).failure)
        #expect(inside.what == "line 5 answers 'ok', not 'error E*'")
        #expect(inside.description.contains("✗ found wrong at the end"))
        let before = try #require(try search(start + "cpu read a\nexpect 7\n" + race).failure)
        #expect(before.what == "line 3 answers '1', not '7'")
        #expect(before.steps.isEmpty)
        #expect(before.description.contains("✗ found wrong before anything ran at the same time"))
    }

    @Test("What waits for a deadline alone gets there, and is no livelock")
    func deadline() throws {
        // With 6.12 an exclusive page keeps a coherent device from giving its memory back: EBUSY after two seconds.
        let exploration = try search(
            "map a 1 rw\ndev2 migrate a\nrace\nthread one\ndev2 release\nthread two\ndev0 exclusive a\nend\n")
        if let failure = exploration.failure { Issue.record("\(failure.kind): \(failure.what)") }
        #expect(exploration.isComplete)
    }

    @Test("The serial orders are those of the kernel that is explored")
    func profile() throws {
        // Only with 6.12 a migration that moves nothing fails, and leaves nothing to read.
        let text =
            "map a 1 rw\ncpu write a 1\ndev0 migrate a\n"
            + "race\nthread one\ndev1 migrate a\nthread two\ncpu read a\nend\n"
        for profile in [KernelProfile.linux6_12, .next] {
            let exploration = try search(text, profile)
            if let failure = exploration.failure { Issue.record("\(failure.kind): \(failure.what)") }
        }
    }
}
