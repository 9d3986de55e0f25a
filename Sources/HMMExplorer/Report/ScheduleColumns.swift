/// A schedule that goes wrong as a table: a column for each thread, a row for each step that matters.
///
/// What matters: where a statement begins, and the steps on objects that several threads touch and at least one
/// changes. If those are many, only where one thread touches what another one touched before (the last step of the one,
/// the first of the other), and the steps around each change of threads. The rest is counted. Of a livelock the way
/// there is shown, and one turn of what repeats.
struct ScheduleColumns {
    enum Content: Equatable {
        /// A statement or another mark of the program begins.
        case mark(String)
        case step(String)
        /// Steps of this thread that are not shown.
        case folded(Int)
        /// So many steps follow, again and again.
        case repeats(Int)
        case finding(ExplorationFailure.Place)
    }

    struct Row: Equatable {
        /// An index of `titles`; nil for steps of all threads that are not shown.
        var column: Int?
        var content: Content
    }

    /// The names of the threads that made a step.
    private(set) var titles: [String] = []
    private(set) var rows: [Row] = []

    private let steps: [Step]
    /// Enough to understand; a schedule of more steps that matter is shown from both ends.
    private static let manySteps = 40
    private static let rowsAtStart = 40
    private static let rowsAtEnd = 60

    init(_ failure: ExplorationFailure) {
        steps = failure.steps
        var columns: [Int: Int] = [:]
        // What a thread waits for matters like what it did; the same for where others took that.
        let all = steps + failure.waiting
        for thread in failure.threads.indices where all.contains(where: { Int($0.thread) == thread }) {
            columns[thread] = titles.count
            titles.append(failure.threads[thread])
        }
        let matters = Self.matters(all, failure)
        let turn = steps.count - failure.repeating
        var words = StepWords(objects: failure.objects)
        var marks: [UInt8: Int16] = [:]
        for (index, step) in steps.enumerated() {
            if index == turn, turn > 0 {
                cutMiddle(from: 0, atStart: Self.rowsAtStart, atEnd: 0)
                rows.append(Row(column: nil, content: .repeats(failure.repeating)))
            }
            let column = columns[Int(step.thread)]!
            let text = words.text(of: step)
            if step.mark >= 0, marks[step.thread] != step.mark {
                marks[step.thread] = step.mark
                let mark = Int(step.mark)
                let caption = mark < failure.marks.count ? failure.marks[mark] : "mark \(mark)"
                rows.append(Row(column: column, content: .mark(caption)))
            }
            // That a thread starts says nothing that its first step does not.
            if step.kind == .start { continue }
            if matters[index] {
                if isWholeSection(index, matters) {
                    rows[rows.count - 1].content = .step("takes and \(text)")
                } else {
                    rows.append(Row(column: column, content: .step(text)))
                }
            } else {
                fold(column)
            }
        }
        let first = rows.lastIndex { if case .repeats = $0.content { true } else { false } }.map { $0 + 1 } ?? 0
        cutMiddle(from: first, atStart: first > 0 ? Self.rowsAtEnd : Self.rowsAtStart, atEnd: Self.rowsAtEnd)
        for step in failure.waiting {
            rows.append(Row(column: columns[Int(step.thread)], content: .step(words.wait(for: step))))
        }
        if first == 0 { rows.append(Row(column: columns[failure.finder], content: .finding(failure.place))) }
    }

    private static func matters(_ all: [Step], _ failure: ExplorationFailure) -> [Bool] {
        let turn = all.count - failure.repeating
        var matters = matters(Array(all[..<turn])) + matters(Array(all[turn...]))
        // What one thread repeats alone, it all matters.
        if Set(all[turn...].map(\.thread)).count == 1 {
            for index in turn..<all.count { matters[index] = true }
        }
        for (index, step) in all.enumerated() where failure.concerns.contains(step.object) && step.kind.isOfLock {
            if Int(step.thread) == failure.finder { matters[index] = true }
        }
        return matters
    }

    private static func matters(_ steps: [Step]) -> [Bool] {
        let contended = stepsOnContendedObjects(steps)
        return contended.count { $0 } <= manySteps ? contended : handovers(steps)
    }

    /// Whether step `index` gives back the lock that the step before has taken: one row says both.
    private func isWholeSection(_ index: Int, _ matters: [Bool]) -> Bool {
        guard index > 0, matters[index - 1], case .step? = rows.last?.content else { return false }
        let (taking, giving) = (steps[index - 1], steps[index])
        return taking.thread == giving.thread && taking.object == giving.object && taking.mark == giving.mark
            && taking.kind == .acquire && giving.kind == .release
    }

    private mutating func fold(_ column: Int) {
        if let last = rows.last, last.column == column, case .folded(let count) = last.content {
            rows[rows.count - 1].content = .folded(count + 1)
        } else {
            rows.append(Row(column: column, content: .folded(1)))
        }
    }

    /// Of the rows from `first` on, so many stay at the start and at the end.
    private mutating func cutMiddle(from first: Int, atStart: Int, atEnd: Int) {
        guard rows.count > first + atStart + atEnd else { return }
        let middle = (first + atStart)..<(rows.count - atEnd)
        let count = rows[middle].reduce(0) { count, row in
            switch row.content {
            case .step: count + 1
            case .folded(let steps): count + steps
            case .mark, .repeats, .finding: count
            }
        }
        rows.replaceSubrange(middle, with: [Row(column: nil, content: .folded(count))])
    }

    /// What happened to an object since it was last changed.
    private struct Touches {
        var change: Int?
        /// By thread, its last step on the object since then.
        var since: [UInt8: Int] = [:]
    }

    private static func stepsOnContendedObjects(_ steps: [Step]) -> [Bool] {
        var threads: [Int32: Set<UInt8>] = [:]
        var changed: Set<Int32> = []
        for step in steps where step.object >= 0 && step.kind.conduct != .apart {
            threads[step.object, default: []].insert(step.thread)
            if step.kind.conduct == .exclusive { changed.insert(step.object) }
        }
        return steps.map { changed.contains($0.object) && threads[$0.object, default: []].count > 1 }
    }

    private static func handovers(_ steps: [Step]) -> [Bool] {
        var matters = [Bool](repeating: false, count: steps.count)
        var objects: [Int32: Touches] = [:]
        for (index, step) in steps.enumerated() {
            let isSwitch = index > 0 && steps[index - 1].thread != step.thread
            if isSwitch {
                for place in [index - 1, index] where steps[place].object >= 0 { matters[place] = true }
            }
            guard step.object >= 0, step.kind.conduct != .apart else { continue }
            var touches = objects[step.object] ?? Touches()
            let others = touches.since.filter { $0.key != step.thread }.map(\.value)
            if let change = touches.change, steps[change].thread != step.thread, touches.since[step.thread] == nil {
                matters[change] = true
                matters[index] = true
            }
            if step.kind.conduct == .exclusive {
                for other in others {
                    matters[other] = true
                    matters[index] = true
                }
                touches = Touches(change: index)
            } else {
                touches.since[step.thread] = index
            }
            objects[step.object] = touches
        }
        return matters
    }
}

/// Steps in words. Looks at them in their order, because whether a lock was to be had depends on those before.
private struct StepWords {
    private let objects: [String]
    private var owners: [Int32: UInt8] = [:]
    private var sharers: [Int32: Set<UInt8>] = [:]

    init(objects: [String]) { self.objects = objects }

    /// What a thread that cannot go on is kept by.
    func wait(for step: Step) -> String {
        guard step.object >= 0, Int(step.object) < objects.count else { return "waits" }
        return "\(step.kind == .resume ? "sleeps on" : "waits for") \(objects[Int(step.object)])"
    }

    mutating func text(of step: Step) -> String {
        let name = step.object >= 0 && Int(step.object) < objects.count ? objects[Int(step.object)] : "nothing"
        switch step.kind {
        case .acquire: return taken(step, isShared: false) ? "takes \(name)" : "waits for \(name)"
        case .acquireShared: return taken(step, isShared: true) ? "shares \(name)" : "waits for \(name)"
        case .tryAcquire: return taken(step, isShared: false) ? "takes \(name)" : "cannot take \(name)"
        case .tryAcquireShared: return taken(step, isShared: true) ? "shares \(name)" : "cannot share \(name)"
        case .release:
            owners[step.object] = nil
            return "gives back \(name)"
        case .releaseShared:
            sharers[step.object]?.remove(step.thread)
            return "gives back \(name)"
        case .load: return "reads \(Self.word(name))"
        case .store: return "writes \(Self.word(name))"
        case .update: return "changes \(Self.word(name))"
        case .wait: return "looks whether to sleep on \(name)"
        case .wake: return "wakes who sleeps on \(name)"
        case .spawn: return "starts a thread"
        case .join: return "waits for the end of \(name)"
        case .yield: return "gives way"
        case .start: return "starts"
        case .resume: return "wakes up from \(name)"
        }
    }

    private mutating func taken(_ step: Step, isShared: Bool) -> Bool {
        guard owners[step.object] == nil else { return false }
        let others = sharers[step.object] ?? []
        if isShared {
            sharers[step.object] = others.union([step.thread])
            return true
        }
        guard others.isEmpty else { return false }
        owners[step.object] = step.thread
        return true
    }

    /// A folio's lock and its counts lie in one record.
    private static func word(_ name: String) -> String {
        let lock = "folio lock of "
        return name.hasPrefix(lock) ? "counts of " + name.dropFirst(lock.count) : name
    }
}
