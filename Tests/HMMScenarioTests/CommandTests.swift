import Foundation
import Testing

/// The executable lies beside the tests in the build folder, or beside the bundle that holds them.
private let command: URL? = CommandLine.arguments.map { URL(fileURLWithPath: $0) }
    .flatMap { [$0.deletingLastPathComponent(), $0.deletingLastPathComponent().deletingLastPathComponent()] }
    .map { $0.appendingPathComponent("hmm") }
    .first { FileManager.default.isExecutableFile(atPath: $0.path) }

/// The command itself, run as a person runs it.
@Suite("The command", .serialized, .enabled(if: command != nil, "the executable is not beside the tests"))
struct CommandTests {
    private struct Answer {
        var output: String
        var errors: String
        var status: Int32
    }

    private func hmm(_ arguments: [String], input: String = "") throws -> Answer {
        let process = Process()
        let executable: URL = try #require(command)
        process.executableURL = executable
        process.arguments = arguments
        let (stream, output, errors) = (Pipe(), Pipe(), Pipe())
        // Who does not read must not be written to.
        process.standardInput = input.isEmpty ? FileHandle.nullDevice : stream
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        if !input.isEmpty { stream.fileHandleForWriting.write(Data(input.utf8)) }
        try stream.fileHandleForWriting.close()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let complaints = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Answer(output: text, errors: complaints, status: process.terminationStatus)
    }

    @Test func plainFormOfStandardInput() throws {
        let scenario = "== a\nmap m 4 rw\ndev0 read m\ndev0 snapshot m\n"
        let answer = try hmm(["run", "--format", "plain", "-"], input: scenario)
        #expect(answer.status == 0 && answer.errors.isEmpty)
        #expect(answer.output == "== a\n1 ok\n2 ok pages=4 faults=1 values 0*4\n3 ok 11*4\n")
    }

    @Test func failedExpectationIsStatusOne() throws {
        let answer = try hmm(["run", "--format", "plain", "-"], input: "== a\nmap m 1 rw\ncpu read m\n  expect 1\n")
        #expect(answer.status == 1)
        #expect(answer.output == "== a\n1 ok\n2 0\n")
        #expect(answer.errors == "<stdin>:4:3: the result is '0', expected '1'\n")
    }

    @Test func errorInAFileIsStatus64AndNothingIsPlayed() throws {
        let answer = try hmm(["run", PlayTests.examples + "/swap.hmm", "-"], input: "== a\nmap m x rw\nfoo\n")
        #expect(answer.status == 64)
        #expect(answer.output.isEmpty)
        let lines = answer.errors.split(separator: "\n")
        #expect(lines.count == 2 && lines[0].hasPrefix("<stdin>:2:7: ") && lines[1].hasPrefix("<stdin>:3:1: "))
    }

    @Test func wrongUsageIsStatus64() throws {
        #expect(try hmm(["run"]).status == 64)
        #expect(try hmm(["run", "--format", "xml", "-"]).status == 64)
        #expect(try hmm(["run", "--scenario", "nothing*", "-"], input: "== a\n").status == 64)
        #expect(try hmm(["run", "/nowhere.hmm"]).status == 66)
    }

    @Test func scenariosAreChosenByName() throws {
        let file = RoundTripTests.directory + "/access.hmm"
        let answer = try hmm(["run", "--format", "plain", "--scenario", "access-00?", file])
        #expect(answer.status == 64, "only '*' is a wildcard")
        let ten = try hmm(["run", "--format", "plain", "--scenario", "access-00*", file])
        #expect(ten.output.split(separator: "\n").count { $0.hasPrefix("==") } == 10)
    }

    @Test func noEscapesWithoutATerminal() throws {
        let answer = try hmm(["run", PlayTests.examples + "/first-fault.hmm"])
        #expect(answer.status == 0)
        #expect(answer.output.contains("expectations        "))
        #expect(!answer.output.contains("\u{1b}"))
    }

    @Test func helpAndVersion() throws {
        #expect(try hmm(["--version"]).output.hasPrefix("hmm "))
        #expect(try hmm(["run", "--help"]).output.contains("DEVICE snapshot RANGE"))
    }
}
