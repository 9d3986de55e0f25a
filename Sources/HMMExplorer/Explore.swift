import HMM

/// How schedules are chosen.
public enum ExplorationStrategy: Hashable, Sendable, CustomStringConvertible {
    /// All that can be told apart, by partial-order reduction.
    case exhaustive
    /// All with at most so many preemptions.
    case bounded(Int)
    /// Random priorities with so many ordering constraints to be met: finds a bug of that depth with a probability of
    /// at least 1 / (n * k^(depth - 1)) in each schedule, for n threads and k steps.
    case pct(Int)
    /// Any thread at any step.
    case random
    /// All orders of all steps, without reduction: to compare `exhaustive` with.
    case unreduced

    public var description: String {
        switch self {
        case .exhaustive: "exhaustive"
        case .bounded(let limit): "bounded \(limit)"
        case .pct(let depth): "pct \(depth)"
        case .random: "random"
        case .unreduced: "unreduced"
        }
    }

    func make(seed: UInt64) -> Strategy {
        switch self {
        case .exhaustive: ExhaustiveStrategy()
        case .bounded(let limit): BoundedStrategy(limit: limit)
        case .pct(let depth): PCTStrategy(depth: depth, seed: seed)
        case .random: RandomStrategy(seed: seed)
        case .unreduced: ExhaustiveStrategy(reduces: false)
        }
    }
}

/// How far and in which way to explore.
public struct ExplorationOptions: Sendable {
    public var strategy = ExplorationStrategy.exhaustive
    /// Stop after so many schedules.
    public var schedules = 100_000
    /// Stop after so many seconds.
    public var seconds = Double.infinity
    public var seed: UInt64 = 1
    /// A schedule with more steps goes on with every thread in turn; if that does not end either, it is a livelock.
    public var stepLimit = 10_000
    /// The machine of the scenes: a small one, unless a program needs more.
    public var machine = MachineConfiguration.small
    /// Run this schedule only.
    public var replay: Schedule?
    /// Asked now and then, with the schedules that were run since the last time; false stops the exploration.
    package var goesOn: (@Sendable (_ schedules: Int) -> Bool)?
    /// What is explored, with all that it depends on: replay tokens are good for this program only.
    public var program = ""
    /// How many schedules may be spent on making a failure small; with 0 it stays as it was found.
    public var shrinkingSchedules = 2_000

    public init() {}
}

/// What an exploration came to.
public struct Exploration: Sendable {
    public var strategy: ExplorationStrategy
    /// Schedules that were run to their end, without those that were cut.
    public var schedules = 0
    /// Schedules that were left because others stand for them.
    public var cutSchedules = 0
    public var steps = 0
    public var longestSchedule = 0
    /// Whether there is no schedule that was not run and that no other stands for.
    public var isComplete = false
    public var seconds = 0.0
    public var failure: ExplorationFailure?
}

/// Runs `program` under every order of its threads that the options allow, until something is wrong.
///
/// The program makes what it needs on `scene.machine`, starts threads with `scene.thread`, waits for them with
/// `scene.join`, checks, and takes away what it made. It must do the same each time it is run: no clock, no random
/// numbers and no threads but those of the scene and of `HMM`.
public func explore(
    _ options: ExplorationOptions = ExplorationOptions(), _ program: @escaping (Scene) throws -> Void
) -> Exploration {
    Explorer(options).run(program)
}
