import HMM
import HMMScenario

extension ScenarioProgram {
    /// Explores a scenario, each schedule on a clean machine of the options.
    package static func explore(_ scenario: Scenario, _ options: ExplorationOptions) -> Exploration {
        let program: ScenarioProgram
        do throws(HMMError) {
            program = try ScenarioProgram(scenario, options.machine)
        } catch {
            preconditionFailure("no machine for the serial orders: \(error)")
        }
        return HMMExplorer.explore(options) { scene in try program.run(scene) }
    }

    /// What a scenario that goes wrong looks like with as few statements as that takes, and how it goes wrong then; nil
    /// if it needs all of them.
    ///
    /// A schedule does not fit a scenario of other statements, so each candidate is searched for one: with as many
    /// preemptions as `failure` has, but at most two. `text` is what the tokens of a scenario are good for.
    package static func shrink(
        _ scenario: Scenario, _ failure: ExplorationFailure, _ options: ExplorationOptions,
        program text: (Scenario) -> String
    ) -> (scenario: Scenario, failure: ExplorationFailure)? {
        guard failure.kind != .nondeterminism, options.shrinkingSchedules > 0 else { return nil }
        var search = options
        search.strategy = .bounded(min(failure.preemptions, mostPreemptions))
        search.seconds = .infinity
        search.replay = nil
        search.goesOn = nil
        search.schedules = schedulesPerCandidate
        search.shrinkingSchedules = 0
        var stepsLeft = stepBudget
        let small = Shrinker.shrink(scenario, attempts: candidates) { candidate in
            guard stepsLeft > 0 else { return false }
            let exploration = explore(candidate, search)
            stepsLeft -= exploration.steps
            // Without its writes a scenario never reads what it expects: the first schedule has to be good.
            if failure.kind == .expectation, exploration.failure?.schedules == 1 { return false }
            return exploration.failure?.kind == failure.kind
        }
        guard small.statements.count < scenario.statements.count || small.text.utf8.count < scenario.text.utf8.count
        else { return nil }
        search.shrinkingSchedules = options.shrinkingSchedules
        search.program = text(small)
        guard var shown = explore(small, search).failure, shown.kind == failure.kind else { return nil }
        shown.schedules = failure.schedules
        return (small, shown)
    }

    private static let mostPreemptions = 2
    private static let schedulesPerCandidate = 2_000
    private static let candidates = 300
    private static let stepBudget = 20_000_000
}
