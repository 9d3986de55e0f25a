import Glibc
import HMM
import HMMExplorer
import Synchronization

/// Spreads explorations over threads of the system. Each explores on machines of its own.
enum ExplorationJobs {
    /// Every subject on one thread, several at a time. Results go to the report in the order of the subjects.
    static func runAll(
        _ subjects: [ExplorationSubject], jobs: Int, _ progress: ExplorationProgress, _ report: ExplorationReport
    ) -> [ExplorationResult] {
        let results = Results(count: subjects.count)
        let next = Counter()
        let threads = (0..<min(jobs, subjects.count)).map { index in
            SyncThread.spawn(name: "explore \(index)") {
                while case let place = next.take(), place < subjects.count, !Interruption.hasCome {
                    var options = subjects[place].options
                    options.goesOn = { progress.note(schedules: $0) }
                    let exploration = subjects[place].explore(options)
                    let result = finished(subjects[place], exploration)
                    progress.noteSubject()
                    progress.clear()
                    results.set(result, at: place)
                    report.add(result, at: place)
                }
            }
        }
        threads.forEach { $0.join() }
        return results.all
    }

    /// One subject whose schedules are drawn at random: each part draws its own, until one of them fails.
    static func runOne(
        _ subject: ExplorationSubject, parts: Int, _ progress: ExplorationProgress
    ) -> ExplorationResult {
        let start = SyncClock.now()
        let isStopped = Flag()
        let explored = Explorations(count: parts)
        let threads = (0..<parts).map { part in
            SyncThread.spawn(name: "explore \(part)") {
                var options = subject.options
                options.seed = subject.options.seed &+ UInt64(part)
                let share = options.schedules / parts
                options.schedules = share + (part < subject.options.schedules % parts ? 1 : 0)
                options.goesOn = { schedules in
                    progress.note(schedules: schedules) && !isStopped.value.load(ordering: .relaxed)
                }
                let exploration = subject.explore(options)
                if exploration.failure != nil { isStopped.value.store(true, ordering: .relaxed) }
                explored.set(exploration, at: part)
            }
        }
        threads.forEach { $0.join() }
        var total = explored.all[0]
        for part in explored.all.dropFirst() { total.add(part) }
        total.seconds = Double(SyncClock.now() - start) / 1e9
        return finished(subject, total)
    }

    private static func finished(_ subject: ExplorationSubject, _ exploration: Exploration) -> ExplorationResult {
        var result = ExplorationResult(subject: subject, exploration: exploration)
        if let failure = exploration.failure, subject.options.replay == nil, let small = subject.shrunk(failure) {
            result.shrunk = small.scenario
            result.shrunkFailure = small.failure
        }
        return result
    }
}

extension Exploration {
    /// Takes another part of the same exploration in. Of two failures the earlier part's counts.
    fileprivate mutating func add(_ part: Exploration) {
        schedules += part.schedules
        cutSchedules += part.cutSchedules
        steps += part.steps
        longestSchedule = max(longestSchedule, part.longestSchedule)
        failure = failure ?? part.failure
    }
}

private final class Flag: Sendable {
    let value = Atomic<Bool>(false)
}

private final class Counter: Sendable {
    private let next = Atomic<Int>(0)
    func take() -> Int { next.add(1, ordering: .relaxed).oldValue }
}

/// One value for each place, set by several threads.
private final class Slots<Value: Sendable>: @unchecked Sendable {
    private let lock = SpinLock(.leaf)
    /// Guarded by `lock`.
    private var values: [Value?]

    init(count: Int) { values = Array(repeating: nil, count: count) }

    func set(_ value: Value, at place: Int) { lock.withLock { values[place] = value } }
    var all: [Value] { lock.withLock { values.compactMap { $0 } } }
}

private typealias Results = Slots<ExplorationResult>
private typealias Explorations = Slots<Exploration>

/// A line on the terminal that says how far it is; nothing where standard error is no terminal.
final class ExplorationProgress: Sendable {
    private let total: Int
    private let isShown = isatty(STDERR_FILENO) == 1
    private let finished = Atomic<Int>(0)
    private let schedules = Atomic<Int>(0)
    private let lastShown = Atomic<UInt64>(SyncClock.now())
    private static let interval: UInt64 = 500_000_000

    init(subjects: Int) { total = subjects }

    /// So many schedules more. Whether to go on: not when the user has had enough.
    func note(schedules count: Int) -> Bool {
        let all = schedules.add(count, ordering: .relaxed).newValue
        if Interruption.hasCome { return false }
        guard isShown else { return true }
        let now = SyncClock.now()
        let last = lastShown.load(ordering: .relaxed)
        if now > last + Self.interval,
            lastShown.compareExchange(expected: last, desired: now, ordering: .relaxed).exchanged
        {
            write("\r\u{1b}[K\(finished.load(ordering: .relaxed))/\(total) done, \(all) schedules")
        }
        return true
    }

    func noteSubject() { finished.add(1, ordering: .relaxed) }

    func clear() {
        if isShown { write("\r\u{1b}[K") }
    }

    private func write(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.write(STDERR_FILENO, bytes, bytes.count)
    }
}

/// Ctrl-C: the explorations stop, and what they came to is shown. A second one ends the command at once.
enum Interruption {
    private static let flag = Atomic<Bool>(false)

    static var hasCome: Bool { flag.load(ordering: .relaxed) }

    static func watch() {
        // Who started the command may have blocked it.
        var interrupt = sigset_t()
        sigemptyset(&interrupt)
        sigaddset(&interrupt, SIGINT)
        sigprocmask(SIG_UNBLOCK, &interrupt, nil)
        signal(SIGINT) { _ in
            Interruption.flag.store(true, ordering: .relaxed)
            signal(SIGINT, SIG_DFL)
        }
    }
}
