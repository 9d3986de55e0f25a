import HMM

/// Every order of the steps that can be told apart, depth first: dynamic partial-order reduction with source sets and
/// sleep sets.
///
/// Two schedules that differ only in the order of independent steps end alike, so one of them is enough. A schedule is
/// run; where two of its steps race (different threads, dependent, nothing orders them), the second thread's way there
/// is noted as an alternative at the first. `Races` finds them; this class keeps the tree of choices.
///
/// Source: "Optimal Dynamic Partial Order Reduction", Abdulla, Aronis, Jonsson, Sagonas (POPL 2014), source-DPOR.
final class ExhaustiveStrategy: Strategy {
    /// A choice on the schedule under way.
    struct Node {
        var enabled: ThreadSet
        /// Threads to be tried here, those that were among them.
        var wanted: ThreadSet
        /// Threads that were tried here before.
        var done: ThreadSet
        /// Threads whose next step leads to what was seen already.
        var asleep: ThreadSet
        var chosen: UInt8
    }

    private let reduces: Bool
    @exclusivity(unchecked) private(set) var nodes: [Node] = []
    private let races = Races()
    private var isFirst = true
    /// Threads that sleep at the step to come.
    @exclusivity(unchecked) private var asleep: ThreadSet = 0
    private var isCut = false
    @exclusivity(unchecked) private var cut = 0

    /// Without `reduces`, every order of all steps: to compare with.
    init(reduces: Bool = true) { self.reduces = reduces }

    override var sharedPrefix: Int { max(nodes.count - 1, 0) }
    override var cutSchedules: Int { cut }

    override func begin() -> Bool {
        defer { isFirst = false }
        isCut = false
        asleep = 0
        if !isFirst {
            guard nextBranch() else { return false }
        }
        races.begin(knownSteps: max(nodes.count - 1, 0))
        return true
    }

    /// Goes back to the last place where something is left to try.
    private func nextBranch() -> Bool {
        while var last = nodes.popLast() {
            last.done |= .only(Int(last.chosen))
            let left = last.wanted & ~last.done & ~last.asleep
            if left != 0 {
                last.chosen = UInt8(left.first)
                nodes.append(last)
                return true
            }
        }
        return false
    }

    override func choose(_ enabled: ThreadSet, depth: Int, _ scheduler: ExplorationScheduler) -> Int {
        if depth < nodes.count {
            scheduler.expect(enabled == nodes[depth].enabled)
        } else {
            let awake = enabled & ~asleep
            if awake == 0 {
                cut += 1
                isCut = true
                scheduler.cutShort()
                return Schedule.obvious(enabled: enabled, current: scheduler.current)
            }
            let chosen = Schedule.obvious(enabled: awake, current: scheduler.current)
            nodes.append(
                Node(
                    enabled: enabled, wanted: reduces ? .only(chosen) : enabled, done: 0, asleep: asleep,
                    chosen: UInt8(chosen)))
        }
        let chosen = Int(nodes[depth].chosen)
        if reduces { step(chosen, depth, scheduler) }
        return chosen
    }

    @inline(__always)
    private func step(_ thread: Int, _ depth: Int, _ scheduler: ExplorationScheduler) {
        let next = scheduler.pending[thread]
        asleep = stillAsleep(nodes[depth].asleep | nodes[depth].done, thread, next, scheduler)
        races.step(thread, next.kind, Int(next.object), depth, takesLock: scheduler.takesLock(next))
        for index in 0..<races.foundCount { want(races.found[index], depth) }
    }

    /// A sleeping thread wakes when a step is made that depends on its next one.
    @inline(__always)
    private func stillAsleep(
        _ candidates: ThreadSet, _ thread: Int, _ next: ExplorationScheduler.Pending, _ scheduler: ExplorationScheduler
    ) -> ThreadSet {
        var still = candidates & ~ThreadSet.only(thread)
        var rest = still
        while rest != 0 {
            let sleeper = rest.first
            rest &= rest &- 1
            let its = scheduler.pending[sleeper]
            if Step.depend(its.kind, its.object, next.kind, next.object) { still &= ~.only(sleeper) }
        }
        return still
    }

    /// Step `depth` races with step `earlier`: a thread that can begin the way to the other order is to be tried there.
    private func want(_ earlier: Int, _ depth: Int) {
        let beginners = races.beginners(after: earlier, upTo: depth)
        if beginners & nodes[earlier].wanted != 0 { return }
        let possible = beginners & nodes[earlier].enabled
        if possible == 0 {
            nodes[earlier].wanted |= nodes[earlier].enabled
        } else {
            let thread = Int(races.thread(of: depth))
            nodes[earlier].wanted |= possible.has(thread) ? .only(thread) : .only(possible.first)
        }
    }

    override func spawned(_ child: Int, by parent: Int) { races.spawned(child, by: parent) }
}
