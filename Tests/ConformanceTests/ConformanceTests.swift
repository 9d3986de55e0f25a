import HMMScenario
import Testing

/// Each recorded scenario, line by line, with the invariants of the whole machine checked after every statement.
@Suite("What Linux 6.12 answers")
struct ConformanceTests {
    @Test(arguments: Packs.recordings)
    func scenarioAnswersAsRecorded(_ recorded: RecordedCase) {
        guard let difference = recorded.recording.firstDifference(checksInvariants: true) else { return }
        Issue.record("\(difference)\n\(difference.transcript)")
    }

    @Test(arguments: Packs.regressions)
    func scenarioAnswersAsTheSourcesSay(_ derived: RecordedCase) {
        guard let difference = derived.recording.firstDifference(checksInvariants: true) else { return }
        Issue.record("\(difference)\n\(difference.transcript)")
    }

    @Test func noScenarioIsForgotten() throws {
        #expect(try Recording.families(in: Packs.directory).count == Packs.familyCount)
        #expect(Packs.recordings.count == Packs.scenarioCount)
    }
}
