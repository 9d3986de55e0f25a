/// The smallest scheduler: at every scheduling point the next thread that can run goes on.
///
/// It runs closures as virtual threads on the calling thread, always in the same order, and reports a deadlock as a
/// value. Good for tests of code that waits, and as the example of how a `Scheduler` is written.
public final class RoundRobinScheduler: Scheduler {
    /// A scheduling point that was passed.
    public struct Step: Hashable, Sendable, CustomStringConvertible {
        public let thread: Int
        public let kind: SchedulingPoint.Kind
        /// The object, numbered in the order of appearance: addresses differ between runs.
        public let object: Int

        public var description: String { "\(thread):\(kind)(\(object))" }
    }

    /// A thread that waits for ever.
    public struct Blocked: Hashable, Sendable {
        public let thread: Int
        public let name: String
        /// The number of the object it sleeps on, as in `Step`.
        public let object: Int
    }

    public enum Ending: Hashable, Sendable {
        /// All bodies returned.
        case finished
        /// These threads sleep, and nobody is left to wake them.
        case deadlock([Blocked])
        /// `stepLimit` was reached: a livelock, or a limit too small.
        case stepLimit
    }

    public struct Outcome: Hashable, Sendable {
        public let ending: Ending
        public let trace: [Step]
        public let violations: [LockOrderViolation]
        /// Virtual time that passed, in nanoseconds.
        public let nanoseconds: UInt64
        /// Locks that finished threads did not release.
        public let leftLocks: Int
    }

    private enum State: Equatable {
        case runnable
        case blocked(key: UInt)
        case sleeping(until: UInt64)
        case finished
    }

    private let stepLimit: Int
    private var threads: [VirtualThread] = []
    private var states: [State] = []
    private var current = 0
    private var time: UInt64 = 0
    private var randomState: UInt64
    private var objects: [UInt: Int] = [:]
    private var trace: [Step] = []
    private var violations: [LockOrderViolation] = []

    private init(seed: UInt64, stepLimit: Int) {
        randomState = seed
        self.stepLimit = stepLimit
    }

    /// Runs `bodies`, and all threads that they spawn, to the end or until none can go on.
    public static func run(seed: UInt64 = 0, stepLimit: Int = 1_000_000, _ bodies: [() -> Void]) -> Outcome {
        let scheduler = RoundRobinScheduler(seed: seed, stepLimit: stepLimit)
        for (index, body) in bodies.enumerated() { scheduler.add(name: "thread \(index)", body) }
        scheduler.whileInstalled { scheduler.threads.first?.enter() }
        defer { for thread in scheduler.threads { thread.discard() } }
        return scheduler.outcome()
    }

    public override func schedulingPoint(_ kind: SchedulingPoint.Kind, on object: UInt) {
        trace.append(Step(thread: current, kind: kind, object: number(of: object)))
        if trace.count >= stepLimit {
            threads[current].leave()
        } else {
            goOn()
        }
    }

    public override func block(on key: UInt) {
        states[current] = .blocked(key: key)
        goOn()
    }

    public override func unblock(_ index: Int) { states[index] = .runnable }

    public override func spawn(name: String, _ body: @escaping () -> Void) { add(name: name, body) }

    public override func finished(_ index: Int) -> VirtualThread? {
        states[index] = .finished
        guard let next = chooseNext() else { return nil }
        current = next
        return threads[next]
    }

    public override func now() -> UInt64 { time }

    public override func sleep(nanoseconds: UInt64) {
        states[current] = .sleeping(until: time + nanoseconds)
        goOn()
    }

    public override func random() -> UInt64 { SplitMix.next(&randomState) }

    public override func lockOrderViolation(_ violation: LockOrderViolation) { violations.append(violation) }

    private func add(name: String, _ body: @escaping () -> Void) {
        let thread = VirtualThread(index: threads.count, name: name, scheduler: self)
        thread.start(body)
        threads.append(thread)
        states.append(.runnable)
    }

    /// Switches to the next thread that can run, or home if there is none. Returns when the caller is chosen again.
    private func goOn() {
        let from = current
        guard let next = chooseNext() else { return threads[from].leave() }
        if next == from { return }
        current = next
        threads[from].yield(to: threads[next])
    }

    private func chooseNext() -> Int? { nextRunnable(after: current) ?? firstToAwake() }

    private func nextRunnable(after index: Int) -> Int? {
        for distance in 1...threads.count {
            let candidate = (index + distance) % threads.count
            if states[candidate] == .runnable { return candidate }
        }
        return nil
    }

    /// Lets time pass until the first sleeper awakes.
    private func firstToAwake() -> Int? {
        var first: (index: Int, time: UInt64)?
        for (index, state) in states.enumerated() {
            if case .sleeping(let until) = state, until < first?.time ?? .max { first = (index, until) }
        }
        guard let first else { return nil }
        time = first.time
        states[first.index] = .runnable
        return first.index
    }

    private func number(of object: UInt) -> Int {
        if let number = objects[object] { return number }
        objects[object] = objects.count
        return objects.count - 1
    }

    private func outcome() -> Outcome {
        var blocked: [Blocked] = []
        for (index, state) in states.enumerated() {
            guard case .blocked(let key) = state else { continue }
            blocked.append(Blocked(thread: index, name: threads[index].name, object: number(of: key)))
        }
        let areAllFinished = states.allSatisfy { $0 == .finished }
        return Outcome(
            ending: areAllFinished ? .finished : trace.count >= stepLimit ? .stepLimit : .deadlock(blocked),
            trace: trace, violations: violations, nanoseconds: time,
            leftLocks: threads.filter(\.isFinished).reduce(0) { $0 + $1.heldLockCount })
    }
}
