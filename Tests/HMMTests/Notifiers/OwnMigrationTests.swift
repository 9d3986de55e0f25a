import Testing

@testable import HMM

/// Aim: INV-NT-6 for filtered events: what was read before an own migration is never committed after it.
@Suite("Own migrations in progress")
struct OwnMigrationTests {
    @Test("INV-NT-6: a commit into a registered range, or after a migration has ended, starts over")
    func commitRetries() {
        let tracker = OwnMigrationTracker()
        let before = tracker.generation
        #expect(!tracker.mustRetryLocked(span(0, 10), since: before))
        let ticket = tracker.beginLocked(span(5, 7))
        #expect(tracker.mustRetryLocked(span(0, 10), since: before))
        #expect(!tracker.mustRetryLocked(span(7, 10), since: before), "disjoint ranges do not delay each other")
        #expect(tracker.isMigratingLocked(span(6, 7)) && !tracker.isMigratingLocked(span(7, 8)))
        tracker.endLocked(ticket)
        #expect(tracker.mustRetryLocked(span(0, 10), since: before), "the frames that were read may be free")
        #expect(!tracker.mustRetryLocked(span(0, 10), since: tracker.generation))
        tracker.waitForEnd(since: before)
    }

    @Test("several threads may migrate at once")
    func several() {
        let tracker = OwnMigrationTracker()
        let first = tracker.beginLocked(span(0, 4))
        let second = tracker.beginLocked(span(4, 8))
        tracker.endLocked(first)
        #expect(!tracker.isMigratingLocked(span(0, 4)) && tracker.isMigratingLocked(span(4, 5)))
        tracker.endLocked(second)
        #expect(!tracker.isMigratingLocked(span(0, 8)))
    }

    @Test("a migration that is ended twice traps")
    func endedTwice() async {
        await #expect(processExitsWith: .failure) {
            let tracker = OwnMigrationTracker()
            let ticket = tracker.beginLocked(span(0, 4))
            tracker.endLocked(ticket)
            tracker.endLocked(ticket)
        }
    }
}
