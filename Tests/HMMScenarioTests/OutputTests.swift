import HMMScenario
import Testing

@Suite("Output forms")
struct OutputTests {
    /// A scenario with a race, and made-up answers: what is printed does not depend on the machine.
    private func report(_ makePrinter: (@escaping (String) -> Void) -> any ReportPrinter) throws -> String {
        let text = """
            == show
            map a 4 rw
            dev0 read a
            expect ok pages=4 faults=1 values 1*4
            race
            thread one
            unmap a
            thread two
            cpu read a
            expect 0*4|!*4
            end
            """
        let scenario = try #require(try Parser.parse(text).first)
        let results: [StatementResult] = [
            .ok, .request([.init("pages", 4), .init("faults", 1)], values: RunLengths([.zero, .zero, .zero, .zero])),
            .error("EINVAL"), .values(RunLengths([.segmentationFault, .busError, .seed(3), .seed(3)])),
        ]
        let sink = Sink()
        var printer = makePrinter { sink.text += $0 }
        var outcome = ScenarioOutcome(scenario: scenario)
        printer.begin(scenario, file: "f.hmm")
        for (statement, result) in zip(scenario.statements, results) {
            let answer = StatementOutcome(statement: statement, result: result)
            outcome.statements.append(answer)
            printer.add(answer, of: scenario)
        }
        outcome.summary.scenarios = 1
        outcome.summary.statements = 4
        outcome.summary.expectations = 2
        outcome.summary.failedExpectations = 2
        outcome.summary.tableBytes = 20480
        outcome.summary.nanoseconds = 1_234_567
        printer.end(outcome, file: "f.hmm")
        printer.finish(outcome.summary)
        return sink.text
    }

    private final class Sink {
        var text = ""
    }

    @Test func plainIsTheRecordedForm() throws {
        let text = try report { PlainPrinter(write: $0) }
        #expect(text == "== show\n1 ok\n2 ok pages=4 faults=1 values 0*4\n6 error EINVAL\n8 ! B 3*2\n")
    }

    @Test func personSeesColumnsFailuresAndASummary() throws {
        let text = try report { PersonPrinter(isColored: false, write: $0) }
        let expected = """
            show
               1  map a 4 rw    ok
               2  dev0 read a   ok pages=4 faults=1 values 0*4
                  expected ok pages=4 faults=1 values 1*4
                  at the same time, one:
               6    unmap a     error EINVAL
                  at the same time, two:
               8    cpu read a  ! B 3*2
                  expected 0*4|!*4

            scenarios           1, 4 statements
            expectations        2, 2 failed
            CPU faults          0
            device faults       0
            invalidations       0
            retries             0
            entries mirrored    0
            table memory        20 KiB
            mirror memory       0 bytes
            time                1.2 ms

            """
        #expect(text == expected)
    }

    @Test func coloursOnlyWhenWanted() throws {
        #expect(try report { PersonPrinter(isColored: true, write: $0) }.contains("\u{1b}[33merror EINVAL\u{1b}[0m"))
        #expect(try !report { PersonPrinter(isColored: false, write: $0) }.contains("\u{1b}"))
    }

    @Test func jsonIsAnObjectALine() throws {
        let lines = try report { JSONPrinter(write: $0) }.split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines[0].hasPrefix(#"{"file":"f.hmm","scenario":"show","statements":[{"line":1,"process":"main","#))
        #expect(
            lines[0].contains(
                #""status":"ok","pages":4,"faults":1,"values":[[0,4]],"failed":["ok pages=4 faults=1 values 1*4"]"#))
        #expect(lines[0].contains(#""values":[["!",1],["B",1],[3,2]]"#))
        #expect(lines[1].hasPrefix(#"{"summary":{"scenarios":1,"statements":4,"#))
    }

    @Test func jsonEscapesStrings() {
        let value = JSON.object([("a\"b\\", .string("line\nend\u{1}")), ("n", .null), ("d", .decimal(.nan))])
        #expect(value.text == #"{"a\"b\\":"line\nend\u0001","n":null,"d":null}"#)
    }
}
