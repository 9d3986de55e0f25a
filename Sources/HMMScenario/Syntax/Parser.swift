import HMM

/// Reads scenarios. All errors of a text are found in one go, as far as one does not follow from another.
package struct Parser {
    /// The scenarios of `source`, or every error in it.
    package static func parse(_ source: String) throws(ScenarioErrors) -> [Scenario] {
        var parser = Parser()
        for line in Lexer.lines(of: source) { parser.read(line) }
        parser.finishScenario()
        guard parser.diagnostics.isEmpty else { throw ScenarioErrors(diagnostics: parser.diagnostics) }
        return parser.scenarios
    }

    var diagnostics: [Diagnostic] = []
    private var scenarios: [Scenario] = []
    /// The line of each scenario's name.
    private var scenarioLines: [String: Int] = [:]
    /// The line of the last `==`, even when its name was bad; nil before the first.
    private var headerLine: Int?
    private var reportedMissingHeader = false

    var scenario = Scenario(name: "", position: SourcePosition(line: 1, column: 1))
    var names = NameTable()
    private var race: Race?
    /// What an `expect` would speak about.
    private enum LastLine { case statement, nothing, badStatement }
    private var lastLine = LastLine.nothing

    private mutating func read(_ line: SourceLine) {
        do throws(Diagnostic) {
            try readLine(line)
        } catch {
            diagnostics.append(error)
        }
    }

    private mutating func readLine(_ line: SourceLine) throws(Diagnostic) {
        let first = line.tokens[0]
        if first.text.hasPrefix("==") { return try readHeader(line) }
        guard let headerLine else {
            if reportedMissingHeader { return }
            reportedMissingHeader = true
            throw Diagnostic(first.position, "statement before the first scenario", expected: "'== NAME'")
        }
        switch first.text {
        case "race": try readRace(line)
        case "thread": try readThread(line)
        case "end": try readEnd(line)
        case "expect": try readExpect(line)
        default:
            lastLine = .badStatement
            let statement = try readStatement(line, lineInScenario: first.position.line - headerLine)
            try add(statement)
            lastLine = .statement
        }
    }

    private mutating func add(_ statement: Statement) throws(Diagnostic) {
        guard race != nil else {
            scenario.steps.append(.statement(statement))
            return
        }
        if statement.verb.isOutsideRaces {
            throw Diagnostic(
                statement.position, "'\(statement.verb.word)' inside a race",
                expected: "it before 'race' or behind 'end'")
        }
        guard let last = race?.groups.indices.last else {
            throw Diagnostic(statement.position, "statement between 'race' and 'thread'", expected: "'thread NAME'")
        }
        race?.groups[last].statements.append(statement)
    }

    // MARK: Scenarios

    private mutating func readHeader(_ line: SourceLine) throws(Diagnostic) {
        finishScenario()
        let first = line.tokens[0]
        headerLine = first.position.line
        scenario = Scenario(name: "", position: first.position)
        names = NameTable()
        lastLine = .nothing
        guard first.text == "==" else {
            throw Diagnostic(first.position, "'\(first.text)'", expected: "'== NAME'")
        }
        guard line.tokens.count > 1 else {
            throw Diagnostic(line.end, "the scenario has no name", expected: "'== NAME'")
        }
        let name = line.tokens[1]
        try expectEnd(line, after: 2, of: "'== NAME'")
        scenario.name = name.text
        if let line = scenarioLines.updateValue(name.position.line, forKey: name.text) {
            throw Diagnostic(
                name.position, "the name '\(name.text)' is taken by the scenario of line \(line)",
                expected: "a name of its own for each scenario of a file")
        }
    }

    private mutating func finishScenario() {
        if let race {
            diagnostics.append(Diagnostic(race.position, "'race' without 'end'", expected: "'end' behind its threads"))
            self.race = nil
        }
        if headerLine != nil { scenarios.append(scenario) }
    }

    // MARK: Races

    private mutating func readRace(_ line: SourceLine) throws(Diagnostic) {
        lastLine = .nothing
        let position = line.tokens[0].position
        if race != nil {
            throw Diagnostic(position, "'race' inside a race", expected: "'thread NAME', a statement or 'end'")
        }
        race = Race(position: position)
        names.enterRace()
        try expectEnd(line, after: 1, of: "'race'")
    }

    private mutating func readThread(_ line: SourceLine) throws(Diagnostic) {
        lastLine = .nothing
        let position = line.tokens[0].position
        guard let race else {
            throw Diagnostic(position, "'thread' outside a race", expected: "'race' before it")
        }
        guard line.tokens.count > 1 else {
            throw Diagnostic(line.end, "the thread has no name", expected: "'thread NAME'")
        }
        let name = line.tokens[1]
        if race.groups.contains(where: { $0.name == name.text }) {
            diagnostics.append(
                Diagnostic(
                    name.position, "a thread '\(name.text)' is already there",
                    expected: "a name of its own for each thread of a race"))
        }
        self.race?.groups.append(RaceGroup(name: name.text, position: position))
        names.enterGroup(race.groups.count)
        try checkName(name, of: "a thread")
        try expectEnd(line, after: 2, of: "'thread NAME'")
    }

    private mutating func readEnd(_ line: SourceLine) throws(Diagnostic) {
        lastLine = .nothing
        let position = line.tokens[0].position
        guard let race else {
            throw Diagnostic(position, "'end' outside a race", expected: "'race' before it")
        }
        self.race = nil
        names.leaveRace()
        scenario.steps.append(.race(race))
        if race.groups.isEmpty {
            throw Diagnostic(position, "the race has no threads", expected: "'thread NAME' and its statements")
        }
        try expectEnd(line, after: 1, of: "'end'")
    }

    // MARK: Expectations

    private mutating func readExpect(_ line: SourceLine) throws(Diagnostic) {
        let position = line.tokens[0].position
        if lastLine == .badStatement { return }
        guard lastLine == .statement else {
            throw Diagnostic(position, "'expect' without a statement", expected: "the statement directly before it")
        }
        let form = "'expect RESULT' or 'expect RESULT|RESULT|…'"
        guard line.tokens.count > 1 else {
            throw Diagnostic(line.end, "nothing is expected", expected: form)
        }
        let text = line.tokens[1...].map(\.text).joined(separator: " ")
        let alternatives = text.split(separator: "|", omittingEmptySubsequences: false).map { alternative in
            alternative.split(separator: " ").joined(separator: " ")
        }
        if alternatives.contains("") {
            throw Diagnostic(line.tokens[1].position, "an alternative is empty", expected: form)
        }
        attach(Expectation(position: position, alternatives: alternatives))
    }

    private mutating func attach(_ expectation: Expectation) {
        if let last = race?.groups.indices.last, let statement = race?.groups[last].statements.indices.last {
            race?.groups[last].statements[statement].expectations.append(expectation)
        } else if case .statement(var statement) = scenario.steps.last {
            statement.expectations.append(expectation)
            scenario.steps[scenario.steps.count - 1] = .statement(statement)
        }
    }
}

extension Parser {
    /// Checks that nothing stands behind the first `count` words.
    func expectEnd(_ line: SourceLine, after count: Int, of form: String) throws(Diagnostic) {
        guard line.tokens.count > count else { return }
        let extra = line.tokens[count]
        throw Diagnostic(extra.position, "'\(extra.text)' is too much", expected: "the end of \(form)")
    }

    /// Checks that `token` can be a name: a letter or `_`, then letters, digits, `_` and `-`.
    func checkName(_ token: Token, of what: String) throws(Diagnostic) {
        func isLetter(_ byte: UInt8) -> Bool {
            byte == UInt8(ascii: "_") || (byte | 0x20 >= UInt8(ascii: "a") && byte | 0x20 <= UInt8(ascii: "z"))
        }
        func isInside(_ byte: UInt8) -> Bool {
            isLetter(byte) || byte == UInt8(ascii: "-") || (byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9"))
        }
        let bytes = Array(token.text.utf8)
        guard let first = bytes.first, isLetter(first), bytes.allSatisfy(isInside) else {
            throw Diagnostic(
                token.position, "'\(token.text)' cannot be the name of \(what)",
                expected: "a letter or '_', then letters, digits, '_' or '-'")
        }
    }
}
