/// Failures as one page that needs nothing else: no script, no file beside it, dark where the reader's screen is dark.
public enum FailurePage {
    /// A failure, and what a reader should know before it.
    public struct Section: Sendable {
        public var title: String
        public var lead: String
        public var failure: ExplorationFailure
        /// The text of the program, where it is short.
        public var program: String
        /// What runs the schedule again; the token alone, if not said.
        public var replay: String

        public init(
            title: String, lead: String, failure: ExplorationFailure, program: String = "", replay: String? = nil
        ) {
            self.title = title
            self.lead = lead
            self.failure = failure
            self.program = program
            self.replay = replay ?? "\(failure.token)"
        }
    }

    public static func html(title: String, _ sections: [Section]) -> String {
        let body = sections.isEmpty ? "<p>Nothing went wrong.</p>\n" : sections.map(html).joined()
        return """
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <title>\(escaped(title))</title>
            <style>
            \(style)
            </style>
            </head>
            <body>
            <h1>\(escaped(title))</h1>
            \(body)</body>
            </html>

            """
    }

    private static func html(_ section: Section) -> String {
        let failure = section.failure
        let columns = ScheduleColumns(failure)
        let sentences = failure.sentences.map(escaped).joined(separator: "<br>")
        let titles = columns.titles.map { "<th scope=\"col\">\(escaped($0))</th>" }.joined()
        let rows = columns.rows.map { html($0, width: columns.titles.count) }.joined(separator: "\n")
        return """
            <section>
            <h2>\(escaped(section.title))</h2>
            <p>\(escaped(section.lead))</p>
            \(section.program.isEmpty ? "" : "<pre>\(escaped(section.program))</pre>")
            <p class="what"><strong>\(escaped(failure.kind.rawValue))</strong> \(sentences)</p>
            <p>\(escaped(failure.circumstances)).</p>
            <table>
            <thead><tr>\(titles)</tr></thead>
            <tbody>
            \(rows)
            </tbody>
            </table>
            <p>Replay: <code>\(escaped(section.replay))</code></p>
            </section>

            """
    }

    private static func html(_ row: ScheduleColumns.Row, width: Int) -> String {
        let style =
            switch row.content {
            case .mark: "mark"
            case .step: "step"
            case .folded: "folded"
            case .finding, .repeats: "finding"
            }
        let text = ColumnText.words(row.content)
        guard let column = row.column else {
            return "<tr><td class=\"\(style)\" colspan=\"\(max(width, 1))\">\(escaped(text))</td></tr>"
        }
        let cells = (0..<width).map { $0 == column ? "<td class=\"\(style)\">\(escaped(text))</td>" : "<td></td>" }
        return "<tr>\(cells.joined())</tr>"
    }

    static func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            switch character {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.append(character)
            }
        }
        return result
    }

    private static let style = """
        :root { color-scheme: light dark; --line: #d0d0d0; --dim: #666; --mark: #0a5; --bad: #b00020; --cell: #f6f6f6; }
        @media (prefers-color-scheme: dark) {
          :root { --line: #444; --dim: #999; --mark: #5d9; --bad: #ff6b7a; --cell: #1e1e1e; }
        }
        body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
        section { margin-bottom: 3rem; overflow-x: auto; }
        .what { color: var(--bad); }
        table { border-collapse: collapse; width: 100%; table-layout: fixed; font: 14px/1.4 ui-monospace, monospace; }
        th { text-align: left; border-bottom: 2px solid var(--line); padding: .3rem .6rem; }
        td { border-left: 1px solid var(--line); padding: .1rem .6rem; vertical-align: top; overflow-wrap: anywhere; }
        td:first-child, th:first-child { border-left: none; }
        td:not(:empty) { background: var(--cell); }
        .mark { color: var(--mark); font-weight: 600; padding-top: .5rem; }
        .step { padding-left: 1.6rem; }
        .folded { padding-left: 1.6rem; color: var(--dim); }
        .finding { color: var(--bad); font-weight: 700; }
        code { overflow-wrap: anywhere; }
        """
}
