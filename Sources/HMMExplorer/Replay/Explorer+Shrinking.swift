import HMM

/// A schedule that was run once more, and what it takes.
struct ShrunkSchedule {
    var schedule: Schedule
    var preemptions: Int
    var steps: Int
    var stepLimit: Int

    /// Fewer preemptions count most, then fewer detours, then fewer steps.
    func isSmaller(than other: ShrunkSchedule) -> Bool {
        (preemptions, schedule.detours.count, steps, stepLimit)
            < (other.preemptions, other.schedule.detours.count, other.steps, other.stepLimit)
    }
}

extension Explorer {
    /// The failure that the last schedule ended with, made small and told in words.
    func shownFailure(
        _ finding: ScheduleFinding, schedules: Int, _ program: @escaping (Scene) throws -> Void
    ) -> ExplorationFailure {
        let found = scheduler.schedule
        guard finding.kind != .nondeterminism else {
            return failure(finding, schedules, preemptions: 0, stepLimit: options.stepLimit)
        }
        var shrinker = ScheduleShrinker(explorer: self, finding, program)
        let small = shrinker.shrink(found)
        let stepLimit = small?.stepLimit ?? options.stepLimit
        let replay = shownReplay(small?.schedule ?? found)
        stage.captions.begin(isShown: true)
        scheduler.namer = { replay.name($0) }
        defer {
            scheduler.namer = nil
            stage.captions.begin(isShown: false)
        }
        guard let shown = run(replay, program, stepLimit: stepLimit), shown.kind == finding.kind else {
            let lost = ScheduleFinding(
                kind: .nondeterminism,
                what: "\(finding.kind.rawValue): \(finding.what); but the same schedule did not lead there again")
            return failure(lost, schedules, preemptions: replay.preemptions, stepLimit: stepLimit)
        }
        return failure(shown, schedules, preemptions: replay.preemptions, stepLimit: stepLimit)
    }

    private func shownReplay(_ schedule: Schedule) -> ShownReplay {
        ShownReplay(schedule) { [stage] address in stage.captions.name(of: address, on: stage.machine) }
    }

    /// Runs the next schedule of a strategy. Nil: nothing was wrong.
    func run(
        _ strategy: Strategy, _ program: @escaping (Scene) throws -> Void, stepLimit: Int
    ) -> ScheduleFinding? {
        scheduler.strategy = strategy
        guard strategy.begin() else { return nil }
        // The scheduler does not keep its strategy alive.
        return withExtendedLifetime(strategy) { runOnce(program, stepLimit: stepLimit) }
    }

    private func failure(
        _ finding: ScheduleFinding, _ schedules: Int, preemptions: Int, stepLimit: Int
    ) -> ExplorationFailure {
        let count = min(finding.step, scheduler.stepCount)
        return ExplorationFailure(
            kind: finding.kind, what: finding.what, schedule: scheduler.schedule,
            token: ReplayToken(
                schedule: scheduler.schedule, program: options.program, seed: options.seed, stepLimit: stepLimit),
            schedules: schedules, preemptions: preemptions, steps: (0..<count).map { scheduler.steps[$0] },
            waiting: finding.kind == .deadlock ? scheduler.waitingSteps : [],
            threads: scheduler.names,
            objects: (0..<scheduler.objects.pointee.count).map { scheduler.describe(Int32($0)) },
            marks: stage.captions.marks, finder: finding.thread, concerns: finding.objects,
            repeating: finding.cycle.count)
    }
}

/// Looks for a smaller schedule that goes wrong in the same way.
struct ScheduleShrinker {
    private let explorer: Explorer
    private let kind: FindingKind
    /// The steps of a livelock in any order: where the cycle begins depends on the step limit.
    private let cycle: [String]
    private let program: (Scene) throws -> Void
    private var best: ShrunkSchedule?
    /// Schedules and steps that may still be run: short programs get the first, long ones the second.
    private var schedulesLeft: Int
    private var stepsLeft = 4_000_000
    /// The shortest limit that a livelock is tried with, lest a long loop passes for one without end.
    private static let shortestLimit = 250

    init(explorer: Explorer, _ finding: ScheduleFinding, _ program: @escaping (Scene) throws -> Void) {
        self.explorer = explorer
        kind = finding.kind
        cycle = finding.cycle.sorted()
        self.program = program
        schedulesLeft = explorer.options.shrinkingSchedules
    }

    /// The smallest schedule found, or nil if not even `schedule` goes wrong again.
    mutating func shrink(_ schedule: Schedule) -> ShrunkSchedule? {
        guard schedulesLeft > 0, attempt(schedule) else { return nil }
        if !cycle.isEmpty { shortenLimit() }
        dropDetours()
        searchBounded()
        return best
    }

    private var isOver: Bool { schedulesLeft <= 0 || stepsLeft <= 0 }

    private mutating func attempt(_ schedule: Schedule, stepLimit: Int? = nil) -> Bool {
        attempt(ShownReplay(schedule), stepLimit: stepLimit ?? best?.stepLimit ?? explorer.options.stepLimit)
    }

    /// Runs one schedule; keeps it if it goes wrong in the same way and is smaller.
    private mutating func attempt(_ replay: ShownReplay, stepLimit: Int) -> Bool {
        guard !isOver else { return false }
        let finding = explorer.run(replay, program, stepLimit: stepLimit)
        schedulesLeft -= 1
        stepsLeft -= explorer.scheduler.stepCount
        guard let finding, finding.kind == kind else { return false }
        if stepLimit != explorer.options.stepLimit, finding.cycle.sorted() != cycle { return false }
        let result = ShrunkSchedule(
            schedule: explorer.scheduler.schedule, preemptions: replay.preemptions,
            steps: explorer.scheduler.stepCount, stepLimit: stepLimit)
        if let best, !result.isSmaller(than: best) { return false }
        best = result
        return true
    }

    /// A cycle of steps shows as well after a shorter while. It has to be the same one, which not every limit leads to:
    /// a few are tried.
    private mutating func shortenLimit() {
        guard let schedule = best?.schedule else { return }
        for limit in Self.shortestLimit..<(Self.shortestLimit + 16) where limit < explorer.options.stepLimit {
            let short = Schedule(detours: schedule.detours.filter { $0.step < limit })
            if attempt(short, stepLimit: limit) { return }
        }
    }

    /// Leaves detours out, many at a time and then each, until none can go.
    private mutating func dropDetours() {
        var isSmaller = true
        while isSmaller, !isOver {
            isSmaller = false
            var length = best?.schedule.detours.count ?? 0
            while length > 0 {
                var end = best?.schedule.detours.count ?? 0
                while end > 0, var detours = best?.schedule.detours {
                    let start = max(0, end - length)
                    detours.removeSubrange(start..<end)
                    if attempt(Schedule(detours: detours)) { isSmaller = true }
                    end = min(start, best?.schedule.detours.count ?? 0)
                }
                length /= 2
            }
        }
    }

    /// Schedules of another shape may need fewer preemptions: all that have none are tried, then those with one, then
    /// with two, as far as the budget goes.
    private mutating func searchBounded() {
        let bound = min(best?.preemptions ?? 0, 3)
        for preemptions in 0..<bound {
            let strategy = BoundedStrategy(limit: preemptions)
            var left = schedulesLeft / (bound - preemptions)
            while left > 0, !isOver, strategy.begin() {
                explorer.scheduler.strategy = strategy
                let limit = best?.stepLimit ?? explorer.options.stepLimit
                let finding = withExtendedLifetime(strategy) { explorer.runOnce(program, stepLimit: limit) }
                left -= 1
                schedulesLeft -= 1
                stepsLeft -= explorer.scheduler.stepCount
                guard finding?.kind == kind else { continue }
                if attempt(explorer.scheduler.schedule) { dropDetours() }
                return
            }
        }
    }
}
