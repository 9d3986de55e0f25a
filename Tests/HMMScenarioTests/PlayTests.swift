import HMM
import HMMScenario
import Testing

@Suite("Playing scenarios")
struct PlayTests {
    private func play(_ text: String) throws -> ScenarioOutcome {
        let scenario = try #require(try Parser.parse(text).first)
        var options = Player.Options()
        options.checksInvariants = true
        return try Player(scenario, options).play()
    }

    private func lines(_ text: String) throws -> [String] {
        let outcome = try play(text)
        #expect(outcome.violations.isEmpty)
        return outcome.statements.map(\.line)
    }

    @Test func writesThatFaultSayWhichPages() throws {
        #expect(
            try lines("== w\nmap a 6 rw\nprotect a[2] r\nunmap a[5]\ncpu write a 9\ncpu read a\n")
                == ["1 ok", "2 ok", "3 ok", "4 9*2 ! 9*2 !", "5 9*2 0 9*2 !"])
    }

    @Test func childUsesRegionsWhereTheParentHadThem() throws {
        let text = """
            == m
            map a 2 rw
            cpu write a 1
            fork c
            move a
            cpu write a[0] 2
            c: cpu read a
            cpu read a
            c: move a
            c: cpu write a[1] 3
            c: cpu read a
            cpu read a
            """
        #expect(try lines(text).suffix(6) == ["6 1*2", "7 2 1", "8 ok", "9 ok", "10 1 3", "11 2 1"])
    }

    @Test func resultsOfARaceComeInTheOrderOfTheText() throws {
        let text = """
            == r
            map a 64 rw
            race
            thread one
            cpu write a[0..<32] 1
            cpu read a[0..<32]
            thread two
            cpu write a[32..<64] 2
            cpu read a[32..<64]
            end
            cpu read a
            """
        for _ in 0..<20 {
            #expect(try lines(text) == ["1 ok", "4 ok", "5 1*32", "7 ok", "8 2*32", "10 1*32 2*32"])
        }
    }

    @Test func afterAnExitInARaceTheProcessIsGone() throws {
        let text = """
            == x
            map a 8 rw
            fork c
            race
            thread one
            c: cpu write a 1
            expect ok|error ESRCH
            c: cpu read a
            expect 1*8|error ESRCH
            thread two
            c: exit
            end
            cpu read a
            expect 0*8
            """
        for _ in 0..<20 {
            let outcome = try play(text)
            #expect(outcome.violations.isEmpty)
            #expect(outcome.summary.failedExpectations == 0)
        }
    }

    @Test func summaryCounts() throws {
        let summary = try play("== s\nmap a 3 rw\ncpu write a 1\nexpect ok\ncpu read a\nexpect 2*3\n").summary
        #expect(summary.statements == 3)
        #expect(summary.expectations == 2)
        #expect(summary.failedExpectations == 1)
        #expect(summary.cpuFaults == 3)
        #expect(summary.tableBytes >= 4 * 4096)
    }

    /// A machine reserves much address space: one that stays behind after each of a thousand scenarios is felt.
    @Test(arguments: [
        "exit\n", "map a 4 rw\ncpu write a 1\n", "map a 4 rw shared\ncpu write a 1\n", "map a 4 rw file\ncpu read a\n",
        "map a 4 rw\nfork c\ncpu write a 1\n", "map a 4 rw\ncpu write a 1\nadvise a pageout\n",
        "map a 4 rw\ndev0 read a\n", "map a 4 rw\ndev0 snapshot a\ndev0 close\n", "map a 4 rw\ndev0 migrate a\n",
        "map a 512 rw hugepage\ncpu write a 1\n",
    ])
    func nothingOfAMachineStaysBehind(statements: String) throws {
        weak var machine: Machine?
        weak var frames: FrameTable?
        let scenario = try #require(try Parser.parse("== f\n" + statements).first)
        do {
            let player = try Player(scenario)
            machine = player.machine
            frames = player.machine.frames
            _ = player.play()
        }
        #expect(machine == nil && frames == nil)
    }

    /// Examples/scenarios, beside Tests.
    static let examples =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Examples/scenarios"

    static let exampleNames: [String] =
        (try? TextFile.names(in: examples, suffix: ".hmm").map { String($0.dropLast(4)) }) ?? []

    @Test func examplesAreThere() {
        #expect(Set(Self.exampleNames).isSuperset(of: ["first-fault", "cow-and-mirror", "shared-memory", "swap"]))
    }

    /// Every expectation holds with both kernels. The answers beside the example are those of 6.12; only an example
    /// with a race, whose answers depend on luck, has none.
    @Test(arguments: exampleNames, ["6.12", "next"])
    func exampleHoldsWhatItSays(name: String, kernel: String) throws {
        var options = Player.Options()
        options.checksInvariants = true
        options.configuration.profile = kernel == "next" ? .next : .linux6_12
        var plain = ""
        for scenario in try Parser.parse(TextFile.read("\(Self.examples)/\(name).hmm")) {
            let outcome = try Player(scenario, options).play()
            #expect(outcome.violations.isEmpty)
            for statement in outcome.statements where !statement.failedExpectations.isEmpty {
                Issue.record("line \(statement.line), expected \(statement.failedExpectations.map(\.text))")
            }
            plain += "== \(scenario.name)\n" + outcome.statements.map { $0.line + "\n" }.joined()
        }
        guard kernel == "6.12" else { return }
        guard let expected = try? TextFile.read("\(Self.examples)/\(name).expected") else {
            return #expect(name.hasPrefix("racing-"), "only a race may do without recorded answers")
        }
        #expect(plain == expected)
    }
}
