import CommandRunner
import Testing

/// The command itself, run as a person runs it.
@Suite("The command", .serialized, .enabled(if: BuiltCommand.isThere, "the executable is not beside the tests"))
struct CommandTests {
    @Test func plainFormOfStandardInput() async throws {
        let scenario = "== a\nmap m 4 rw\ndev0 read m\ndev0 snapshot m\n"
        let answer = try await BuiltCommand.run(["run", "--format", "plain", "-"], input: scenario)
        #expect(answer.status == 0 && answer.errors.isEmpty)
        #expect(answer.output == "== a\n1 ok\n2 ok pages=4 faults=1 values 0*4\n3 ok 11*4\n")
    }

    @Test func failedExpectationIsStatusOne() async throws {
        let answer = try await BuiltCommand.run(
            ["run", "--format", "plain", "-"], input: "== a\nmap m 1 rw\ncpu read m\n  expect 1\n")
        #expect(answer.status == 1)
        #expect(answer.output == "== a\n1 ok\n2 0\n")
        #expect(answer.errors == "<stdin>:4:3: the result is '0', expected '1'\n")
    }

    @Test func errorInAFileIsStatus64AndNothingIsPlayed() async throws {
        let answer = try await BuiltCommand.run(
            ["run", PlayTests.examples + "/swap.hmm", "-"], input: "== a\nmap m x rw\nfoo\n")
        #expect(answer.status == 64)
        #expect(answer.output.isEmpty)
        let lines = answer.errors.split(separator: "\n")
        #expect(lines.count == 2 && lines[0].hasPrefix("<stdin>:2:7: ") && lines[1].hasPrefix("<stdin>:3:1: "))
    }

    @Test func wrongUsageIsStatus64() async throws {
        #expect(try await BuiltCommand.run(["run"]).status == 64)
        #expect(try await BuiltCommand.run(["run", "--format", "xml", "-"]).status == 64)
        #expect(try await BuiltCommand.run(["run", "--scenario", "nothing*", "-"], input: "== a\n").status == 64)
        #expect(try await BuiltCommand.run(["run", "/nowhere.hmm"]).status == 66)
    }

    @Test func scenariosAreChosenByName() async throws {
        let file = RoundTripTests.directory + "/access.hmm"
        let answer = try await BuiltCommand.run(["run", "--format", "plain", "--scenario", "access-00?", file])
        #expect(answer.status == 64, "only '*' is a wildcard")
        let ten = try await BuiltCommand.run(["run", "--format", "plain", "--scenario", "access-00*", file])
        #expect(ten.output.split(separator: "\n").count { $0.hasPrefix("==") } == 10)
    }

    @Test func noEscapesWithoutATerminal() async throws {
        let answer = try await BuiltCommand.run(["run", PlayTests.examples + "/first-fault.hmm"])
        #expect(answer.status == 0)
        #expect(answer.output.contains("expectations        "))
        #expect(!answer.output.contains("\u{1b}"))
    }

    @Test func helpAndVersion() async throws {
        #expect(try await BuiltCommand.run(["--version"]).output.hasPrefix("hmm "))
        #expect(try await BuiltCommand.run(["run", "--help"]).output.contains("DEVICE snapshot RANGE"))
    }
}
