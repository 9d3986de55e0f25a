/// For a person: statements and results in two columns, expectations that failed, and what it all cost.
package struct PersonPrinter: ReportPrinter {
    private let write: (String) -> Void
    private let style: Style
    /// Width of the column of statements.
    private var width = 0
    /// The threads of the races, by the line of their first statement.
    private var threads: [Int: String] = [:]
    private var raceLines: Set<Int> = []

    package init(isColored: Bool, write: @escaping (String) -> Void) {
        style = Style(isColored: isColored)
        self.write = write
    }

    /// Longer statements push their result to the right, rather than everybody's.
    private static let widest = 44

    package mutating func begin(_ scenario: Scenario, file: String) {
        width = scenario.statements.map { scenario.text(of: $0).count }.filter { $0 <= Self.widest }.max() ?? 0
        threads = [:]
        raceLines = []
        for case .race(let race) in scenario.steps {
            width = max(width, (race.statements.map { scenario.text(of: $0).count + 2 }.max() ?? 0))
            for group in race.groups {
                if let first = group.statements.first { threads[first.line] = group.name }
                raceLines.formUnion(group.statements.map(\.line))
            }
        }
        width = min(width, Self.widest)
        write(style.bold(scenario.name) + "\n")
    }

    package func add(_ outcome: StatementOutcome, of scenario: Scenario) {
        let line = outcome.statement.line
        if let thread = threads[line] { write("      " + style.dim("at the same time, \(thread):") + "\n") }
        let text = (raceLines.contains(line) ? "  " : "") + scenario.text(of: outcome.statement)
        let number = pad(String(line), to: 4, left: true)
        write("\(style.dim(number))  \(pad(text, to: width))  \(colored(outcome.result))\n")
        if !outcome.note.isEmpty { write("      \(style.dim(outcome.note))\n") }
        for expectation in outcome.failedExpectations {
            write("      \(style.red("expected")) \(expectation.text)\n")
        }
    }

    private func colored(_ result: StatementResult) -> String {
        let text = result.text
        if result.isError || text.contains("!") || text.contains("B") { return style.yellow(text) }
        return result.isTorn ? style.red(text) : style.green(text)
    }

    package func end(_ outcome: ScenarioOutcome, file: String) {
        for violation in outcome.violations { write("      \(style.red("invariant")) \(violation)\n") }
        write("\n")
    }

    package func finish(_ summary: PlaySummary) {
        func row(_ name: String, _ value: String) { write("\(style.dim(pad(name, to: 18)))  \(value)\n") }
        row("scenarios", "\(summary.scenarios), \(summary.statements) statements")
        if summary.expectations > 0 {
            let failed = summary.failedExpectations
            let text = failed == 0 ? style.green("all held") : style.red("\(failed) failed")
            row("expectations", "\(summary.expectations), \(text)")
        }
        row("CPU faults", String(summary.cpuFaults))
        row("device faults", String(summary.deviceFaults))
        row("invalidations", String(summary.invalidations))
        row("retries", String(summary.retries))
        row("entries mirrored", String(summary.entriesMirrored))
        if summary.pagesToDevice + summary.pagesToSystem > 0 {
            row("pages moved", "\(summary.pagesToDevice) to devices, \(summary.pagesToSystem) back")
            row("bytes copied", Self.memory(summary.bytesCopied))
        }
        row("table memory", Self.memory(summary.tableBytes))
        row("mirror memory", Self.memory(summary.mirrorBytes))
        row("time", Self.time(summary.nanoseconds))
    }

    /// Bytes with the largest unit of which there is at least one.
    static func memory(_ bytes: UInt64) -> String {
        let units: [(String, UInt64)] = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        for (name, shift) in units where bytes >> shift > 0 {
            let tenths = (bytes * 10) >> shift
            return tenths % 10 == 0 ? "\(tenths / 10) \(name)" : "\(tenths / 10).\(tenths % 10) \(name)"
        }
        return "\(bytes) bytes"
    }

    static func time(_ nanoseconds: UInt64) -> String {
        let units: [(String, UInt64)] = [("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1000)]
        for (name, size) in units where nanoseconds >= size {
            let tenths = nanoseconds * 10 / size
            return "\(tenths / 10).\(tenths % 10) \(name)"
        }
        return "\(nanoseconds) ns"
    }

    private func pad(_ text: String, to width: Int, left: Bool = false) -> String {
        let blanks = String(repeating: " ", count: max(0, width - text.count))
        return left ? blanks + text : text + blanks
    }
}

/// Colours of a terminal, or none.
struct Style {
    var isColored: Bool

    func bold(_ text: String) -> String { wrap(text, "1") }
    func dim(_ text: String) -> String { wrap(text, "2") }
    func red(_ text: String) -> String { wrap(text, "31") }
    func green(_ text: String) -> String { wrap(text, "32") }
    func yellow(_ text: String) -> String { wrap(text, "33") }

    private func wrap(_ text: String, _ code: String) -> String {
        isColored ? "\u{1b}[\(code)m\(text)\u{1b}[0m" : text
    }
}
