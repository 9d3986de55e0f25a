import ArgumentParser
import CommandRunner
import Foundation
import HMM
import HMMExplorer
import HMMScenario
import Museum
import Testing

@testable import hmm

@Suite("hmm explore")
struct ExploreCommandTests {
    @Test("Strategies as they are written on a command line", arguments: [
        ("exhaustive", ExplorationStrategy.exhaustive), ("random", .random), ("bounded:0", .bounded(0)),
        ("bounded:12", .bounded(12)), ("pct:3", .pct(3)),
    ])
    func strategies(_ text: String, _ strategy: ExplorationStrategy) throws {
        #expect(try ExploreCommand.strategy(text) == strategy)
        #expect(try ExploreCommand.parse(["--museum", "--strategy", text]).strategy == strategy)
    }

    @Test("Strategies that are none", arguments: [
        "", "pct", "pct:", "pct:0", "bounded:-1", "bounded", "random:1", "dfs", "pct:99999999", "bounded:9999999999",
    ])
    func wrongStrategies(_ text: String) {
        #expect(throws: ValidationError.self) { try ExploreCommand.strategy(text) }
    }

    @Test("What does not go together is refused", arguments: [
        [], ["--museum", "file.hmm"], ["--mended", "file.hmm"], ["--jobs", "0", "--museum"],
        ["--schedules", "0", "--museum"], ["--seconds", "0", "--museum"], ["--output", "x", "--museum"],
    ])
    func refusals(_ arguments: [String]) {
        #expect(throws: (any Error).self) { try ExploreCommand.parse(arguments) }
    }

    /// Wrong in some orders only: the second thread may read what the first has not written yet.
    private static let wrong = """
        == early-read
        map a 4 rw
        map b 1 rw
        cpu write b 9
        race
        thread writer
          cpu write a[1] 1
        thread reader
          cpu read b
          cpu read a[1]
            expect 1
        end

        """

    private func failure(of text: String) throws -> (subject: ExplorationSubject, failure: ExplorationFailure) {
        var options = ExplorationOptions()
        options.machine = .small
        let scenario = try #require(try Parser.parse(text).first)
        let subject = ExplorationSubject(scenario, of: "early-read.hmm", options, "6.12")
        return (subject, try #require(subject.explore(subject.options).failure))
    }

    @Test("A scenario that fails is shrunk to the statements that it takes")
    func shrinksStatements() throws {
        let (subject, failure) = try failure(of: Self.wrong)
        #expect(failure.kind == .expectation)
        let small = try #require(subject.shrunk(failure))
        #expect(
            small.scenario.text == """
                == early-read
                map a 2 rw
                race
                thread writer
                  cpu write a[1..<2] 1
                thread reader
                  cpu read a[1..<2]
                  expect 1
                end

                """)
        #expect(small.failure.kind == .expectation)
        #expect("\(small.failure)".contains("cpu write a[1..<2] 1"))
    }

    @Test("The page of a failure is whole, and quotes what is not markup")
    func page() throws {
        let (_, failure) = try failure(of: Self.wrong)
        let html = FailurePage.html(
            title: "a <b> & \"c\"", [.init(title: "early-read", lead: "1 < 2", failure: failure)])
        #expect(html.hasPrefix("<!DOCTYPE html>\n"))
        #expect(html.contains("<title>a &lt;b&gt; &amp; &quot;c&quot;</title>"))
        #expect(html.contains("1 &lt; 2"))
        #expect(html.contains("cpu write a[1] 1"))
        #expect(html.contains("\(failure.token)"))
        #expect(!html.contains("<script") && !html.contains("http"))
        for tag in ["html", "head", "body", "table", "tbody", "thead", "section", "tr", "td", "th", "p"] {
            let opened = html.ranges(of: "<\(tag)>").count + html.ranges(of: "<\(tag) ").count
            #expect(opened > 0 && opened == html.ranges(of: "</\(tag)>").count, "\(tag)")
        }
    }

    private func hmm(_ arguments: [String]) async throws -> BuiltCommand.Answer {
        try await BuiltCommand.run(["explore"] + arguments)
    }

    private func withFile<R>(_ text: String, _ body: (String) async throws -> R) async throws -> R {
        let file = FileManager.default.temporaryDirectory.appending(path: "explore-\(UUID().uuidString).hmm")
        try text.write(to: file, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(at: file) }
        return try await body(file.path)
    }

    private struct Row: Decodable {
        struct Failure: Decodable {
            var kind: String
            var token: String
            var text: String
        }
        var scenario: String
        var schedules: Int
        var complete: Bool
        var failure: Failure?
    }

    @Test("A token reproduces a failure in another process, 100 times of 100", .enabled(if: BuiltCommand.isThere))
    func reproducesInAnotherProcess() async throws {
        try await withFile(Self.wrong) { file in
            let found = try await hmm(["--json", file])
            #expect(found.status == 1)
            let rows = try JSONDecoder().decode([Row].self, from: Data(found.output.utf8))
            let failure = try #require(rows.first?.failure)
            for _ in 0..<100 {
                let again = try await hmm(["--json", "--replay", failure.token, file])
                #expect(again.status == 1)
                let replayed = try JSONDecoder().decode([Row].self, from: Data(again.output.utf8))
                #expect(replayed.first?.failure?.kind == failure.kind)
                #expect(replayed.first?.failure?.token == failure.token)
                #expect(replayed.first?.schedules == 1)
            }
            // Another text is another program.
            #expect(try await hmm(["--kernel", "next", "--replay", failure.token, file]).status == 64)
            #expect(try await hmm(["--replay", "x1-AAAA", file]).status == 64)
        }
    }

    @Test("A scenario that holds is covered, and status 0", .enabled(if: BuiltCommand.isThere))
    func goodScenario() async throws {
        try await withFile("== good\nmap a 1 rw\nrace\nthread x\ncpu write a 1\nthread y\ndev0 read a\nend\n") { file in
            let answer = try await hmm(["--json", file])
            #expect(answer.status == 0)
            let rows = try JSONDecoder().decode([Row].self, from: Data(answer.output.utf8))
            #expect(rows.count == 1 && rows[0].complete && rows[0].failure == nil && rows[0].schedules > 10)
            let table = try await hmm([file]).output.split(separator: "\n")
            #expect(table.count == 2 && table[0].hasPrefix("scenario") && table[1].hasSuffix("  ok"))
        }
    }

    @Test("A scenario that needs all of its statements is written too", .enabled(if: BuiltCommand.isThere))
    func outputOfTheWhole() async throws {
        let text =
            "== small\nmap a 1 rw\nrace\nthread x\n  cpu write a 1\nthread y\n  cpu write a 2\n"
            + "end\ncpu read a\nexpect 2\n"
        try await withFile(text) { file in
            #expect(try await hmm(["--output", file + ".out", "--html", file + ".html", file]).status == 1)
            defer { for end in [".out", ".html"] { try? FileManager.default.removeItem(atPath: file + end) } }
            #expect(try String(contentsOfFile: file + ".out", encoding: .utf8) == text)
            let page = try String(contentsOfFile: file + ".html", encoding: .utf8)
            #expect(page.contains("cpu write a 1\n") && page.contains("--replay x1-"))
        }
    }

    @Test("An error in a file is status 64, a missing file 66", .enabled(if: BuiltCommand.isThere))
    func badInput() async throws {
        #expect(try await withFile("== a\nfoo\n") { try await hmm([$0]).status } == 64)
        #expect(try await hmm(["no-such-file.hmm"]).status == 66)
    }

    @Test("The museum is a JSON array with the promised members", .enabled(if: BuiltCommand.isThere))
    func museumAsJSON() async throws {
        let name = try #require(Museum.exhibits.first).name
        let answer = try await hmm(["--museum", "--json", "--scenario", name])
        #expect(answer.status == 0)
        let rows = try #require(try JSONSerialization.jsonObject(with: Data(answer.output.utf8)) as? [[String: Any]])
        #expect(rows.count == 1)
        #expect(
            rows.first?.keys.sorted() == ["exhibit", "found", "kind", "schedules", "seconds", "source", "strategy"])
        #expect(rows.first?["exhibit"] as? String == name && rows.first?["found"] as? Bool == true)
    }
}
