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

    @Test("A budget counts each schedule once, also those that are cut")
    func budget() throws {
        let race = try #require(SmallRace.all.first { $0.name == "a thread that starts another" })
        var options = ExplorationOptions()
        options.schedules = 20
        let exploration = explore(options) { scene in _ = race.body(scene) }
        #expect(exploration.schedules + exploration.cutSchedules == 20)
        #expect(exploration.cutSchedules > 0)
        #expect(!exploration.isComplete)
    }

    @Test("Waiting by giving way does not make every number of turns an order of its own")
    func turns() throws {
        let race = try #require(FineSteps.all.first { $0.name == "a loop that gives way until a word changes" })
        let (exploration, states) = states(of: race, .exhaustive)
        #expect(exploration.isComplete && exploration.schedules < 100)
        #expect(states == ["11", "12", "13", "22", "23"])
    }

    private static let races = SmallRace.all + FineSteps.all + FolioSteps.all

    @Test("The final states are those of the unreduced search", arguments: races)
    func sameFinalStates(_ race: SmallRace) throws {
        let (reduced, some) = states(of: race, .exhaustive)
        let (unreduced, all) = states(of: race, .unreduced)
        #expect(reduced.failure == nil)
        #expect(reduced.isComplete && unreduced.isComplete)
        #expect(some == all, "\(reduced.schedules) of \(unreduced.schedules) schedules")
        #expect(reduced.schedules <= unreduced.schedules)
    }
}
