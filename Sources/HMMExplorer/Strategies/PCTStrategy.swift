import HMM

/// Probabilistic concurrency testing: the thread with the highest priority goes on; at `depth - 1` random steps the
/// running thread becomes the lowest.
///
/// A bug that takes `depth` ordering constraints is found by one schedule with a probability of at least
/// 1 / (n * k^(depth - 1)), for n threads and k steps. A thread that gives way (`yield`) becomes the lowest too, so
/// that a loop that waits for others does not keep them from running.
///
/// Source: "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", Burckhardt, Kothari, Musuvathi,
/// Nagarakatte (ASPLOS 2010).
final class PCTStrategy: Strategy {
    private let depth: Int
    @exclusivity(unchecked) private var generator: UInt64
    /// The longest schedule so far: k.
    @exclusivity(unchecked) private var expectedSteps = 100
    @exclusivity(unchecked) private var changes: [Int] = []
    @exclusivity(unchecked) private var nextChange = 0
    /// By thread; higher goes first.
    @exclusivity(unchecked) private var priorities = [Int](repeating: 0, count: ExplorationScheduler.threadLimit)
    @exclusivity(unchecked) private var lowest = 0

    init(depth: Int, seed: UInt64) {
        self.depth = depth
        generator = seed
    }

    override func begin() -> Bool {
        changes.removeAll(keepingCapacity: true)
        for _ in 1..<max(depth, 1) { changes.append(Int(SplitMix.next(&generator) % UInt64(expectedSteps))) }
        changes.sort()
        nextChange = 0
        lowest = 0
        for thread in priorities.indices { priorities[thread] = Int(SplitMix.next(&generator) >> 33) + 1 }
        return true
    }

    override func choose(_ enabled: ThreadSet, depth: Int, _ scheduler: ExplorationScheduler) -> Int {
        let current = scheduler.current
        while nextChange < changes.count, changes[nextChange] <= depth {
            lower(current)
            nextChange += 1
        }
        if scheduler.pendingKind(of: current) == .yield { lower(current) }
        var best = enabled.first
        var rest = enabled & (enabled &- 1)
        while rest != 0 {
            if priorities[rest.first] > priorities[best] { best = rest.first }
            rest &= rest &- 1
        }
        return best
    }

    private func lower(_ thread: Int) {
        lowest -= 1
        priorities[thread] = lowest
    }

    override func end(steps: Int) { expectedSteps = max(expectedSteps, steps) }
}
