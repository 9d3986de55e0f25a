/// A statement and what it answered.
package struct StatementOutcome: Sendable {
    package var statement: Statement
    package var result: StatementResult
    /// In words, what the result does not say of the machine on which the statement ran; often empty.
    package var note: String

    package init(statement: Statement, result: StatementResult, note: String = "") {
        self.statement = statement
        self.result = result
        self.note = note
    }

    package var failedExpectations: [Expectation] {
        let text = result.text
        return statement.expectations.filter { !$0.matches(text) }
    }

    /// The line of the recordings.
    package var line: String { "\(statement.line) \(result.text)" }
}

/// A scenario that was played.
package struct ScenarioOutcome: Sendable {
    package var scenario: Scenario
    /// In the order of the text.
    package var statements: [StatementOutcome] = []
    package var summary = PlaySummary()
    /// Invariants that did not hold, each with the line after which that was seen. Few are looked at unless
    /// `checksInvariants` is set.
    package var violations: [String] = []

    package init(scenario: Scenario) { self.scenario = scenario }
}
