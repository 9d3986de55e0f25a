/// Prints what scenarios answer, while they are played.
package protocol ReportPrinter {
    mutating func begin(_ scenario: Scenario, file: String)
    mutating func add(_ outcome: StatementOutcome, of scenario: Scenario)
    mutating func end(_ outcome: ScenarioOutcome, file: String)
    /// After the last scenario.
    mutating func finish(_ summary: PlaySummary)
}

/// The recorded form: `== NAME`, then `LINE RESULT` for each statement.
package struct PlainPrinter: ReportPrinter {
    private let write: (String) -> Void

    package init(write: @escaping (String) -> Void) { self.write = write }

    package func begin(_ scenario: Scenario, file: String) { write("== \(scenario.name)\n") }
    package func add(_ outcome: StatementOutcome, of scenario: Scenario) { write(outcome.line + "\n") }
    package func end(_ outcome: ScenarioOutcome, file: String) {}
    package func finish(_ summary: PlaySummary) {}
}
