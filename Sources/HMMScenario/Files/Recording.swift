import HMM

/// A recorded scenario and what a real kernel answered to it.
package struct Recording: Sendable {
    package var scenario: Scenario
    /// `LINE RESULT`, one for each statement.
    package var expected: [String]

    /// The recordings of a family: `DIRECTORY/FAMILY.hmm` and `DIRECTORY/FAMILY.expected`.
    package static func family(_ family: String, in directory: String) throws -> [Recording] {
        let scenarios = try Parser.parse(TextFile.read("\(directory)/\(family).hmm"))
        let answers = answers(in: try TextFile.read("\(directory)/\(family).expected"))
        return try scenarios.map { scenario in
            guard let expected = answers[scenario.name] else {
                throw TextFile.Failure(path: "\(family).expected", reason: "no answers for '\(scenario.name)'")
            }
            return Recording(scenario: scenario, expected: expected)
        }
    }

    /// The families in `directory`.
    package static func families(in directory: String) throws -> [String] {
        try TextFile.names(in: directory, suffix: ".hmm").map { String($0.dropLast(4)) }
    }

    private static func answers(in text: String) -> [String: [String]] {
        var answers: [String: [String]] = [:]
        var name = ""
        for line in text.split(separator: "\n") {
            if line.hasPrefix("== ") {
                name = String(line.dropFirst(3))
                answers[name] = []
            } else {
                answers[name, default: []].append(String(line))
            }
        }
        return answers
    }
}

extension Recording {
    /// Where the model answers otherwise than the recorded kernel.
    package struct Difference: Sendable, CustomStringConvertible {
        package var scenario: String
        package var statement: String
        package var expected: String
        package var got: String
        /// Every line of the scenario, with both answers where they differ.
        package var transcript: String
        /// Not an answer that differs: something is wrong.
        package var isBrokenInvariant: Bool { expected == Recording.noneBroken }

        package var description: String { "\(scenario): '\(statement)' answers '\(got)', recorded '\(expected)'" }
    }

    private static let noneBroken = "none broken"

    /// Plays the scenario and compares line by line. A broken invariant counts as a difference.
    package func firstDifference(checksInvariants: Bool, profile: KernelProfile = .linux6_12) -> Difference? {
        var options = Player.Options()
        options.configuration.profile = profile
        options.checksInvariants = checksInvariants
        do throws(HMMError) {
            return differences(of: try Player(scenario, options).play()).first
        } catch {
            return Difference(
                scenario: scenario.name, statement: "a fresh machine", expected: "ok", got: "\(error)", transcript: "")
        }
    }

    /// Where what somebody played differs from the recording, line by line. Broken invariants come first.
    package func differences(of outcome: ScenarioOutcome) -> [Difference] {
        let transcript = transcript(outcome.statements)
        func difference(_ statement: String, _ expected: String, _ got: String) -> Difference {
            Difference(
                scenario: scenario.name, statement: statement, expected: expected, got: got, transcript: transcript)
        }
        var differences = outcome.violations.map { difference("invariants", Self.noneBroken, $0) }
        for (answer, expected) in zip(outcome.statements, self.expected) where answer.line != expected {
            differences.append(difference(scenario.text(of: answer.statement), expected, answer.line))
        }
        if outcome.statements.count != expected.count {
            differences.append(
                difference("all statements", "\(expected.count) lines", "\(outcome.statements.count)"))
        }
        return differences
    }

    private func transcript(_ answers: [StatementOutcome]) -> String {
        zip(answers, expected).map { answer, expected in
            let text = scenario.text(of: answer.statement)
            if answer.line == expected { return "  \(expected)    (\(text))\n" }
            return "! \(expected)    (\(text))\n  answered: \(answer.line)\n"
        }.joined()
    }
}
