import HMM
import HMMExplorer
import HMMScenario
import Museum

/// Prints what explorations came to: a table, a line as soon as it is known, or JSON at the end.
final class ExplorationReport: @unchecked Sendable {
    private let subjects: [ExplorationSubject]
    private let isJSON: Bool
    /// Failures are what is looked for: the museum as history had it.
    private let isSearch: Bool
    /// Whether failures are shown in full.
    private let showsText: Bool
    private let lock = SpinLock(.leaf)
    /// Those that are known, by the place of their subject. Guarded by `lock`.
    private var results: [ExplorationResult?]
    /// The first line that was not printed yet. Guarded by `lock`.
    private var next = 0

    init(subjects: [ExplorationSubject], isJSON: Bool, isSearch: Bool, showsText: Bool) {
        self.subjects = subjects
        self.isJSON = isJSON
        self.isSearch = isSearch
        self.showsText = showsText
        results = Array(repeating: nil, count: subjects.count)
        if !isJSON { Console.write(line(isSearch ? Self.searchTitles : Self.titles)) }
    }

    /// Lines appear in the order of the subjects, whichever is done first.
    func add(_ result: ExplorationResult, at place: Int) {
        lock.withLock {
            results[place] = result
            while next < results.count, let ready = results[next] {
                next += 1
                if !isJSON { Console.write(line(isSearch ? searchCells(ready) : cells(ready))) }
            }
        }
    }

    func finish() {
        let all = lock.withLock { results.compactMap { $0 } }
        if isJSON {
            Console.write(JSON.array(all.map(json)).text + "\n")
            return
        }
        if showsText {
            for result in all where result.exploration.failure != nil { show(result) }
        }
        if isSearch {
            let found = all.count { $0.isFound }
            Console.write("\n\(found) of \(all.count) found\n")
        }
    }

    // MARK: Tables

    private static let titles = ["schedules", "cut", "steps", "covered", "seconds", "result"]
    private static let searchTitles = ["strategy", "schedules", "seconds", "found"]

    private func line(_ cells: [String]) -> String {
        let isTitle = cells == Self.titles || cells == Self.searchTitles
        return line(name: isTitle ? (subjects.first?.isExhibit == true ? "exhibit" : "scenario") : "", cells)
    }

    private func line(name: String, _ cells: [String]) -> String {
        let nameWidth = max(8, subjects.map(\.name.count).max() ?? 0)
        // Names and the last column stand on the left, numbers on the right.
        var text = name.isEmpty ? "" : Self.left(name, nameWidth)
        for (index, cell) in cells.enumerated() {
            let isName = name.isEmpty && index == 0
            let isLast = index == cells.count - 1
            text += isName ? Self.left(cell, nameWidth) : isLast ? "  \(cell)" : "  " + Self.right(cell, 11)
        }
        return text + "\n"
    }

    private static func left(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
    private static func right(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }

    private func cells(_ result: ExplorationResult) -> [String] {
        let exploration = result.exploration
        return [
            result.name, "\(exploration.schedules)", "\(exploration.cutSchedules)", "\(exploration.steps)",
            exploration.isComplete ? "all" : "part", Self.text(seconds: exploration.seconds),
            exploration.failure.map(\.kind.rawValue) ?? (result.isGood ? "ok" : "not covered"),
        ]
    }

    private func searchCells(_ result: ExplorationResult) -> [String] {
        let exploration = result.exploration
        let found = exploration.failure?.kind.rawValue ?? "nothing"
        return [
            result.name, "\(exploration.strategy)", "\(exploration.failure?.schedules ?? exploration.schedules)",
            Self.text(seconds: exploration.seconds), result.isFound ? found : "\(found), not what it is here for",
        ]
    }

    private static func text(seconds: Double) -> String {
        let hundredths = Int((seconds * 100).rounded())
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    }

    private func show(_ result: ExplorationResult) {
        guard let failure = result.exploration.failure else { return }
        var text = "\n\(result.name)\n\(result.lead)\n\n\(result.shrunkFailure ?? failure)\n"
        if let shrunk = result.shrunk {
            text += "\nshrunk to \(shrunk.statements.count) statements:\n\(shrunk.text)"
            text += "\nthe token is for the shrunk scenario; the whole one:\n"
        }
        if let line = result.replayLine { text += "\(line)\n" }
        Console.write(text)
    }

    // MARK: JSON

    private func json(_ result: ExplorationResult) -> JSON {
        switch result.subject.what {
        case .exhibit(let exhibit, _): json(result, of: exhibit)
        case .scenario(let scenario, let file, _): json(result, of: scenario, file)
        }
    }

    private func json(_ result: ExplorationResult, of exhibit: Exhibit) -> JSON {
        let exploration = result.exploration
        var members: [(String, JSON)] = [
            ("exhibit", .string(exhibit.name)), ("source", .string(exhibit.source)),
            ("found", .bool(result.isFound)), ("strategy", .string("\(exploration.strategy)")),
            ("schedules", .number(exploration.failure?.schedules ?? exploration.schedules)),
            ("kind", exploration.failure.map { .string($0.kind.rawValue) } ?? .null),
            ("seconds", .decimal(exploration.seconds)),
        ]
        if !isSearch { members.append(("complete", .bool(exploration.isComplete))) }
        return .object(members)
    }

    private func json(_ result: ExplorationResult, of scenario: Scenario, _ file: String) -> JSON {
        let exploration = result.exploration
        return .object([
            ("file", .string(file)), ("scenario", .string(scenario.name)),
            ("strategy", .string("\(exploration.strategy)")), ("schedules", .number(exploration.schedules)),
            ("cut", .number(exploration.cutSchedules)), ("steps", .number(exploration.steps)),
            ("complete", .bool(exploration.isComplete)), ("seconds", .decimal(exploration.seconds)),
            ("failure", exploration.failure.map { json($0, result.shrunk) } ?? .null),
        ])
    }

    private func json(_ failure: ExplorationFailure, _ shrunk: Scenario?) -> JSON {
        .object([
            ("kind", .string(failure.kind.rawValue)), ("what", .string(failure.what)),
            ("schedules", .number(failure.schedules)), ("preemptions", .number(failure.preemptions)),
            ("token", .string("\(failure.token)")), ("text", .string("\(failure)")),
            ("shrunk", shrunk.map { .string($0.text) } ?? .null),
        ])
    }
}

extension ExplorationSubject {
    fileprivate var isExhibit: Bool {
        if case .exhibit = what { return true }
        return false
    }
}
