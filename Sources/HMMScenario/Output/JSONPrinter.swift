/// For programs: one object a line for each scenario, and one at the end with the summary of all.
///
/// ```
/// {"file":…,"scenario":…,"statements":[{"line":1,"process":"main","statement":"map a 4 rw","result":"ok",
///     "status":"ok"},…],"summary":{…}}
/// {"summary":{…}}
/// ```
/// A statement has `status` (`ok`, `error`, `values`, `failed`), `result` (the text of the plain form) and, as it
/// applies, `error`, the counts of a device request (`pages`, `faults`), `values` and `snapshot` (runs, each a value
/// and how often it follows), `note` (what the result does not say) and `failed` (expectations that did not hold).
package struct JSONPrinter: ReportPrinter {
    private let write: (String) -> Void

    package init(write: @escaping (String) -> Void) { self.write = write }

    package func begin(_ scenario: Scenario, file: String) {}
    package func add(_ outcome: StatementOutcome, of scenario: Scenario) {}

    package func end(_ outcome: ScenarioOutcome, file: String) {
        var members: [(String, JSON)] = [
            ("file", .string(file)), ("scenario", .string(outcome.scenario.name)),
            ("statements", .array(outcome.statements.map { Self.statement($0, of: outcome.scenario) })),
            ("summary", Self.summary(outcome.summary)),
        ]
        if !outcome.violations.isEmpty { members.append(("violations", .array(outcome.violations.map(JSON.string)))) }
        write(JSON.object(members).text + "\n")
    }

    package func finish(_ summary: PlaySummary) {
        write(JSON.object([("summary", Self.summary(summary))]).text + "\n")
    }

    private static func statement(_ outcome: StatementOutcome, of scenario: Scenario) -> JSON {
        let statement = outcome.statement
        var members: [(String, JSON)] = [
            ("line", .number(statement.line)), ("process", .string(scenario.processes[statement.process.index])),
            ("statement", .string(scenario.text(of: statement))), ("result", .string(outcome.result.text)),
        ]
        members += result(outcome.result)
        if !outcome.note.isEmpty { members.append(("note", .string(outcome.note))) }
        let failed = outcome.failedExpectations
        if !failed.isEmpty { members.append(("failed", .array(failed.map { .string($0.text) }))) }
        return .object(members)
    }

    private static func result(_ result: StatementResult) -> [(String, JSON)] {
        switch result {
        case .ok: [("status", .string("ok"))]
        case .error(let name): [("status", .string("error")), ("error", .string(name))]
        case .values(let values): [("status", .string("values")), ("values", runs(values, value))]
        case .request(let counts, let values):
            [("status", .string("ok"))] + counts.map { ($0.name, .number($0.value)) }
                + (values.map { [("values", runs($0, value))] } ?? [])
        case .snapshot(let bytes): [("status", .string("ok")), ("snapshot", runs(bytes) { .number($0) })]
        case .failed(let words): [("status", .string("failed")), ("error", .string(words))]
        }
    }

    private static func runs<Value>(_ values: RunLengths<Value>, _ json: (Value) -> JSON) -> JSON {
        .array(values.runs.map { .array([json($0.value), .number($0.count)]) })
    }

    private static func value(_ value: PageValue) -> JSON {
        switch value {
        case .seed(let seed): .number(seed)
        case .zero: .number(0)
        case .torn, .segmentationFault, .busError: .string(value.text)
        }
    }

    static func summary(_ summary: PlaySummary) -> JSON {
        .object([
            ("scenarios", .number(summary.scenarios)), ("statements", .number(summary.statements)),
            ("expectations", .number(summary.expectations)),
            ("failedExpectations", .number(summary.failedExpectations)),
            ("cpuFaults", .number(summary.cpuFaults)), ("deviceFaults", .number(summary.deviceFaults)),
            ("invalidations", .number(summary.invalidations)), ("retries", .number(summary.retries)),
            ("entriesMirrored", .number(summary.entriesMirrored)),
            ("pagesToDevice", .number(summary.pagesToDevice)), ("pagesToSystem", .number(summary.pagesToSystem)),
            ("bytesCopied", .number(summary.bytesCopied)), ("tableBytes", .number(summary.tableBytes)),
            ("mirrorBytes", .number(summary.mirrorBytes)), ("nanoseconds", .number(summary.nanoseconds)),
        ])
    }
}
