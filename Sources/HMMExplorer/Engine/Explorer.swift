import HMM

/// Runs a program under one schedule after the other.
final class Explorer {
    let options: ExplorationOptions
    private let strategy: Strategy
    let scheduler: ExplorationScheduler
    let stage: Stage

    init(_ options: ExplorationOptions) {
        self.options = options
        strategy = options.replay.map(ReplayStrategy.init) ?? options.strategy.make(seed: options.seed)
        scheduler = ExplorationScheduler(strategy: strategy)
        stage = Stage(configuration: options.machine, seed: options.seed)
    }

    func run(_ program: @escaping (Scene) throws -> Void) -> Exploration {
        var result = Exploration(strategy: options.strategy)
        let start = SyncClock.now()
        let deadline = options.seconds.isFinite ? start + UInt64(options.seconds * 1e9) : .max
        var found: ScheduleFinding?
        // A schedule that went past the limit with choices left was not explored to its end.
        var wasCurtailed = false
        // Until the end, those that were cut are counted among the schedules.
        while result.schedules < options.schedules {
            if result.schedules & 63 == 0 {
                if SyncClock.now() >= deadline { break }
                if let goesOn = options.goesOn, !goesOn(min(result.schedules, 64)) { break }
            }
            guard strategy.begin() else {
                result.isComplete = options.replay == nil && !wasCurtailed
                break
            }
            let finding = runOnce(program)
            result.steps += scheduler.stepCount
            result.longestSchedule = max(result.longestSchedule, scheduler.stepCount)
            result.cutSchedules = strategy.cutSchedules
            result.schedules += 1
            wasCurtailed = wasCurtailed || scheduler.progress.pointee.wasCurtailed
            found = finding
            if found != nil { break }
        }
        result.schedules -= result.cutSchedules
        result.seconds = Double(SyncClock.now() - start) / 1e9
        if let found {
            result.failure = shownFailure(found, schedules: result.schedules, program)
            scheduler.strategy = strategy
        }
        return result
    }

    /// One schedule. Answers what was wrong with it.
    func runOnce(_ program: @escaping (Scene) throws -> Void, stepLimit: Int? = nil) -> ScheduleFinding? {
        scheduler.observer = { [unowned stage] in stage.fault() }
        let scene = Scene(scheduler: scheduler, stage: stage)
        let ending = scheduler.run(stepLimit: stepLimit ?? options.stepLimit) {
            do { try program(scene) } catch { scene.fail("the program threw: \(error)") }
        }
        scheduler.observer = nil
        if ending == .abandoned { stage.discard() } else if let left = stage.clear().first, scheduler.finding == nil {
            return ScheduleFinding(kind: .leftover, what: "left over: \(left)")
        }
        return scheduler.finding
    }
}
