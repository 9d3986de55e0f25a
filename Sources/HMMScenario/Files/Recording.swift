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
