@testable import HMM

/// Picks the thread that goes on at every scheduling point, to reach the windows of a few instructions that threads of
/// the system never hit. The whole run follows from the seed.
///
/// With even seeds any thread may go on at any point. With odd ones the first in a random order goes on until one of a
/// few random steps, where it becomes the last: that lets one thread stand still in the middle of something while the
/// others do a lot ("A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", Burckhardt and others).
final class RandomScheduler: Scheduler {
    private enum State: Equatable { case runnable, blocked, finished }

    private var threads: [VirtualThread] = []
    private var states: [State] = []
    private var current = 0
    private var generator: SeededGenerator
    private var steps = 0
    private var lockOrderViolations: [LockOrderViolation] = []
    private static let stepLimit = 100_000

    private static let changeCount = 3
    private static let expectedSteps = 250
    private let hasPriorities: Bool
    /// Threads, the first to go on first.
    private var order: [Int] = []
    private var changes: Set<Int> = []

    private init(seed: UInt64) {
        generator = SeededGenerator(seed: seed)
        hasPriorities = seed % 2 == 1
        for _ in 0..<Self.changeCount { changes.insert(1 + generator.below(Self.expectedSteps)) }
    }

    /// Runs the bodies to the end. Answers what went wrong with them as threads, or nil.
    static func run(seed: UInt64, _ bodies: [() -> Void]) -> String? {
        let scheduler = RandomScheduler(seed: seed)
        for (index, body) in bodies.enumerated() { scheduler.spawn(name: "thread \(index)", body) }
        scheduler.current = scheduler.hasPriorities ? scheduler.order[0] : 0
        scheduler.whileInstalled { scheduler.threads[scheduler.current].enter() }
        for thread in scheduler.threads { thread.discard() }
        if let violation = scheduler.lockOrderViolations.first { return "\(violation)" }
        if scheduler.states.allSatisfy({ $0 == .finished }) { return nil }
        return scheduler.steps >= stepLimit ? "livelock" : "deadlock"
    }

    override func schedulingPoint(_ kind: SchedulingPoint.Kind, on object: UInt) {
        steps += 1
        if changes.contains(steps) {
            order.removeAll { $0 == current }
            order.append(current)
        }
        if steps >= Self.stepLimit { threads[current].leave() } else { goOn() }
    }

    override func block(on key: UInt) {
        states[current] = .blocked
        goOn()
    }

    override func unblock(_ index: Int) { states[index] = .runnable }

    override func spawn(name: String, _ body: @escaping () -> Void) {
        let thread = VirtualThread(index: threads.count, name: name, scheduler: self)
        thread.start(body)
        order.insert(threads.count, at: generator.below(threads.count + 1))
        threads.append(thread)
        states.append(.runnable)
    }

    override func finished(_ index: Int) -> VirtualThread? {
        states[index] = .finished
        guard let next = chooseNext() else { return nil }
        current = next
        return threads[next]
    }

    override func now() -> UInt64 { UInt64(steps) }
    override func sleep(nanoseconds: UInt64) { goOn() }
    override func random() -> UInt64 { generator.next() }
    override func lockOrderViolation(_ violation: LockOrderViolation) { lockOrderViolations.append(violation) }

    private func goOn() {
        let from = current
        guard let next = chooseNext() else { return threads[from].leave() }
        if next == from { return }
        current = next
        threads[from].yield(to: threads[next])
    }

    private func chooseNext() -> Int? {
        let candidates = states.indices.filter { states[$0] == .runnable }
        guard !candidates.isEmpty else { return nil }
        if hasPriorities { return order.first { states[$0] == .runnable } }
        // Mostly go on: a window is hit by few switches at the right places.
        let goesOn = states[current] == .runnable && generator.chance(1, in: 2)
        return goesOn ? current : candidates[generator.below(candidates.count)]
    }
}
