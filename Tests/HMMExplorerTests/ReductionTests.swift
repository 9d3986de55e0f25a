import HMM
import HMMExplorer
import Testing

@Suite("Partial-order reduction is sound")
struct ReductionTests {
    /// Runs a race under all schedules of a strategy; what it came to, and the final states that it reached.
    private func states(of race: SmallRace, _ strategy: ExplorationStrategy) -> (Exploration, Set<String>) {
        var states: Set<String> = []
        var options = ExplorationOptions()
        options.strategy = strategy
        options.schedules = 2_000_000
        let exploration = explore(options) { scene in states.insert(race.body(scene)) }
        return (exploration, states)
    }

    @Test("The final states are those of the unreduced search", arguments: SmallRace.all)
    func sameFinalStates(_ race: SmallRace) throws {
        let (reduced, some) = states(of: race, .exhaustive)
        let (unreduced, all) = states(of: race, .unreduced)
        #expect(reduced.failure == nil)
        #expect(reduced.isComplete && unreduced.isComplete)
        #expect(some == all, "\(reduced.schedules) of \(unreduced.schedules) schedules")
        #expect(reduced.schedules <= unreduced.schedules)
    }
}
