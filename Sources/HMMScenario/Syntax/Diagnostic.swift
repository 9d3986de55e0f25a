/// A place in a scenario file. Lines and columns count from 1; a column is a Unicode scalar.
package struct SourcePosition: Hashable, Sendable {
    package var line: Int
    package var column: Int

    package init(line: Int, column: Int) {
        self.line = line
        self.column = column
    }
}

/// One error of a scenario file: what is wrong, and what was expected instead.
package struct Diagnostic: Error, Hashable, Sendable {
    package var position: SourcePosition
    package var what: String
    package var expected: String

    package init(_ position: SourcePosition, _ what: String, expected: String) {
        self.position = position
        self.what = what
        self.expected = expected
    }

    /// `FILE:LINE:COL: what, expected …`
    package func description(file: String) -> String {
        "\(file):\(position.line):\(position.column): \(what), expected \(expected)"
    }
}

/// All errors that a file has. Nothing of a file with errors is played.
package struct ScenarioErrors: Error, Sendable {
    package var diagnostics: [Diagnostic]
}
