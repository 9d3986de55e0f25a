/// The table of a failure as text of fixed width.
enum ColumnText {
    private static let lineWidth = 112
    private static let narrowest = 20
    private static let separator = " │ "

    static func text(of columns: ScheduleColumns, _ failure: ExplorationFailure) -> String {
        let head = "\(failure.kind.rawValue): \(failure.sentences.joined(separator: "\n  "))"
        return ([head, failure.circumstances, ""] + table(columns) + ["", "replay: \(failure.token)"])
            .joined(separator: "\n")
    }

    static func words(_ content: ScheduleColumns.Content) -> String {
        switch content {
        case .mark(let text): text
        case .step(let text): "  \(text)"
        case .folded(let count): "  … \(count) step\(count == 1 ? "" : "s")"
        case .repeats(let count): "↻ from here on these \(count) steps repeat"
        case .finding(.here): "✗ found wrong here"
        case .finding(.atEnd): "✗ found wrong at the end"
        case .finding(.before): "✗ found wrong before anything ran at the same time"
        }
    }

    private static func table(_ columns: ScheduleColumns) -> [String] {
        let widths = widths(columns)
        var lines: [String] = []
        if !widths.isEmpty {
            lines.append(line(columns.titles, widths))
            lines.append(widths.map { String(repeating: "─", count: $0) }.joined(separator: "─┼─"))
        }
        for row in columns.rows {
            let text = words(row.content)
            guard let column = row.column else {
                lines.append(text)
                continue
            }
            for part in wrapped(text, widths[column]) {
                var cells = [String](repeating: "", count: widths.count)
                cells[column] = part
                lines.append(line(cells, widths))
            }
        }
        return lines
    }

    private static func line(_ cells: [String], _ widths: [Int]) -> String {
        var line = zip(cells, widths).map { cell, width in
            cell + String(repeating: " ", count: max(0, width - cell.count))
        }.joined(separator: separator)
        while line.last == " " { line.removeLast() }
        return line
    }

    /// As wide as what stands in a column, but all together no wider than a line.
    private static func widths(_ columns: ScheduleColumns) -> [Int] {
        let count = max(columns.titles.count, 1)
        let widest = max(narrowest, (lineWidth - separator.count * (count - 1)) / count)
        return columns.titles.indices.map { column in
            let longest = columns.rows.lazy.filter { $0.column == column }.map { words($0.content).count }.max() ?? 0
            return min(widest, max(longest, columns.titles[column].count))
        }
    }

    /// Parts of at most `width` characters, cut at blanks where there are any.
    static func wrapped(_ text: String, _ width: Int) -> [String] {
        var parts: [String] = []
        var rest = Substring(text)
        let indent = String(repeating: " ", count: min(4, width / 4))
        while rest.count > width {
            let limit = rest.index(rest.startIndex, offsetBy: width)
            let start = rest.firstIndex { $0 != " " } ?? rest.startIndex
            let cut = rest[start..<limit].lastIndex(of: " ") ?? limit
            parts.append(String(rest[..<cut]))
            rest = Substring(indent + rest[cut...].drop { $0 == " " })
        }
        return parts + [String(rest)]
    }
}

extension ExplorationFailure {
    /// What is wrong, a sentence a line.
    var sentences: [String] {
        what.split(separator: "; ").map(String.init)
    }

    enum Place {
        /// After the last step of the thread that found it, or of all.
        case here
        /// The threads were through: the program that started them looked, or nobody did.
        case atEnd
        /// The program had started no threads.
        case before
    }

    var place: Place { steps.isEmpty ? .before : finder == 0 || kind == .leftover ? .atEnd : .here }

    /// How it was found, and how much it takes.
    var circumstances: String {
        let count = preemptions == 1 ? "1 preemption" : "\(preemptions) preemptions"
        return "found in schedule \(schedules); shown with \(steps.count) steps and \(count)"
    }
}
