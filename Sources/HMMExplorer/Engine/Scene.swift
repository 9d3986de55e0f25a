import HMM

/// What the program of an exploration works with: a clean machine, threads, and checks.
///
/// One scene serves one schedule. It belongs to the thread of the system that runs the schedule.
public final class Scene: @unchecked Sendable {
    // Used by the virtual threads of one scheduler only, which run one at a time.
    let scheduler: ExplorationScheduler
    let stage: Stage
    private var threads: [(name: String, body: () -> Void)] = []

    init(scheduler: ExplorationScheduler, stage: Stage) {
        self.scheduler = scheduler
        self.stage = stage
    }

    /// A machine with nothing in it. What the program makes on it, it takes away again: what is left over when the
    /// program returns is a finding.
    public var machine: Machine { stage.machine }

    /// A random number that follows from the seed of the exploration: the same in every schedule.
    public var seed: UInt64 { stage.seed }

    /// Adds a thread, which starts with `join`.
    public func thread(_ name: String, _ body: @escaping () throws -> Void) {
        threads.append(
            (
                name,
                { [self] in
                    do { try body() } catch { fail("\(name) threw: \(error)") }
                }
            ))
    }

    /// Runs all threads that were added; returns when the last of them has come to its end. What comes before and after
    /// happens alone, without choices.
    public func join() {
        let threads = threads
        self.threads.removeAll()
        scheduler.runTogether(threads)
    }

    /// Notes a failure unless `condition` holds. The schedule goes on, unexplored.
    public func check(_ condition: Bool, _ what: @autoclosure () -> String) {
        if !condition { fail(what()) }
    }

    /// Notes a failure.
    public func fail(_ what: String, kind: FindingKind = .assertion) {
        scheduler.find(ScheduleFinding(kind: kind, what: what, thread: scheduler.current))
    }

    /// The running thread begins something that a reader of the schedule should see: a statement, a phase.
    public func mark(_ mark: Int) { scheduler.mark(mark) }

    /// What is to hold whenever no lock is held, beside the invariants of the machine; nil is good. Looked at in every
    /// schedule, at every such point that something was changed before.
    ///
    /// The check runs while all threads stand still and may call whatever does not wait.
    public func always(_ kind: FindingKind = .invariant, _ check: @escaping () -> String?) {
        let before = scheduler.observer
        scheduler.observer = {
            if let found = before?() { return found }
            return check().map { ScheduleFinding(kind: kind, what: $0) }
        }
    }

    /// All invariants of the machine are to hold at this moment, at which no operation is under way.
    public func expectInvariants() {
        let faults = scheduler.whileObserving { machine.checkInvariants() }
        if let fault = faults.first { fail(fault, kind: .invariant) }
    }
}

/// What is made once and used by all schedules of a thread of the system.
final class Stage {
    let seed: UInt64
    /// What the program says about its steps and objects, for people.
    let captions = Captions()
    private let configuration: MachineConfiguration
    private var made: Machine?

    init(configuration: MachineConfiguration, seed: UInt64) {
        self.configuration = configuration
        self.seed = seed
    }

    var machine: Machine {
        if let made { return made }
        do throws(HMMError) {
            let machine = try Machine(configuration)
            made = machine
            return machine
        } catch {
            preconditionFailure("no machine to explore on: \(error)")
        }
    }

    /// What is wrong with the machine in the middle of things, when nobody holds a lock.
    func fault() -> ScheduleFinding? {
        guard let made, let fault = made.checkInvariantsUnlocked().first else { return nil }
        return ScheduleFinding(kind: .invariant, what: fault)
    }

    /// Makes the machine ready for the next schedule. Answers what the program left on it; it is then not used again.
    func clear() -> [String] {
        guard let made else { return [] }
        let left = made.leftovers
        if left.isEmpty { made.recycle() } else { self.made = nil }
        return left
    }

    /// The machine is in an unknown state.
    func discard() { made = nil }
}
