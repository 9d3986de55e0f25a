import Synchronization
import Testing

@testable import HMM

/// Aim: interval notifiers keep INV-NT-1 to INV-NT-7 in each way that they can be used by one thread.
@Suite("Interval notifiers")
struct IntervalNotifierTests {
    let notifiers = MMUNotifiers()
    let client = RecordingClient()

    func clear(_ range: PageRange, blockable: Bool = true) -> InvalidationRange {
        InvalidationRange(.clear, range, isBlockable: blockable)
    }

    /// Begins and ends; true if there was no beginning.
    func isRefused(_ range: InvalidationRange) -> Bool {
        guard let invalidation = Invalidation.tryBegin(notifiers, range) else { return true }
        invalidation.end()
        return false
    }

    @Test("INV-NT-1: the number is odd only between start and end of something that an interval covers")
    func parity() throws {
        let interval = try notifiers.insert(client, over: span(10, 20))
        #expect(notifiers.sequence.number == 2)
        let elsewhere = Invalidation.begin(notifiers, clear(span(20, 30)))
        #expect(notifiers.sequence.number == 2 && client.heardEvents.isEmpty)
        let inside = Invalidation.begin(notifiers, clear(span(19, 30)))
        #expect(notifiers.sequence.number == 3 && client.heardEvents == [.clear])
        inside.end()
        #expect(notifiers.sequence.number == 3, "somebody else is still running")
        elsewhere.end()
        #expect(notifiers.sequence.number == 4)
        interval.remove()
        #expect(notifiers.checkInvariants().isEmpty && notifiers.subscriptionCount == 0)
    }

    @Test("INV-NT-2: inserts and removals wait for the end of an odd phase, in the order in which they came")
    func deferral() throws {
        let first = try notifiers.insert(client, over: span(0, 10))
        let invalidation = Invalidation.begin(notifiers, clear(span(5, 6)))
        let second = try notifiers.insert(client, over: span(5, 7))
        let third = try notifiers.insert(client, over: span(5, 8))
        #expect(second.membership == .insertDeferred && notifiers.tree.count == 1)
        third.remove()
        #expect(third.membership == .removed, "one that never got in leaves at once")
        let nested = Invalidation.begin(notifiers, clear(span(5, 6)))
        #expect(client.heardEvents.count == 2, "only the first interval is in the tree")
        nested.end()
        #expect(second.membership == .insertDeferred)
        invalidation.end()
        #expect(second.membership == .inTree && notifiers.tree.count == 2)
        first.remove()
        second.remove()
        #expect(notifiers.checkInvariants().isEmpty && notifiers.subscriptionCount == 0)
    }

    @Test("INV-NT-3: every number of an interval is odd, and moves only in its callback")
    func intervalNumbers() throws {
        let idle = try notifiers.insert(client, over: span(0, 10))
        #expect(idle.readBegin() == 1)
        let invalidation = Invalidation.begin(notifiers, clear(span(20, 21)))
        let during = try notifiers.insert(client, over: span(20, 21))
        #expect(during.number.load(ordering: .relaxed) == 3, "it must wait for the one that did not see it")
        #expect(idle.readBegin() == 1, "an interval that nobody touched does not wait")
        invalidation.end()
        #expect(during.readBegin() == 3)
        Invalidation.begin(notifiers, clear(span(0, 1))).end()
        #expect(idle.readBegin() == 5 && during.readBegin() == 3)
        idle.remove()
        during.remove()
    }

    @Test("INV-NT-4: a callback between begin and retry asks for another round; one elsewhere does not")
    func retry() throws {
        let interval = try notifiers.insert(client, over: span(0, 10))
        let other = try notifiers.insert(client, over: span(50, 60))
        var sequence = interval.readBegin()
        Invalidation.begin(notifiers, clear(span(55, 56))).end()
        #expect(!interval.readRetry(sequence) && !interval.checkRetry(sequence))
        Invalidation.begin(notifiers, clear(span(9, 56))).end()
        #expect(interval.readRetry(sequence) && interval.checkRetry(sequence))
        sequence = interval.readBegin()
        #expect(!interval.readRetry(sequence))
        interval.remove()
        other.remove()
    }

    @Test("INV-NT-5: a refused start leaves nothing behind: an interval whose lock is taken")
    func refusedByInterval() throws {
        let list = RecordingListClient()
        let registration = try notifiers.register(list)
        let interval = try notifiers.insert(client, over: span(0, 10))
        client.isBusy.store(true, ordering: .releasing)
        #expect(isRefused(clear(span(0, 1), blockable: false)))
        client.isBusy.store(false, ordering: .releasing)
        #expect(notifiers.sequence.running == 0 && !notifiers.sequence.isFrozen)
        #expect(list.notes.isEmpty, "list notifiers come after the intervals")
        #expect(interval.readBegin() == 1, "nobody has to wait")
        interval.remove()
        notifiers.unregister(registration)
    }

    @Test("INV-NT-5: a refused start leaves nothing behind: a list notifier beside an interval that agreed")
    func refusedByList() throws {
        let (paired, late) = (RecordingListClient(), RecordingListClient())
        let refusing = RecordingListClient(refuses: true)
        let registrations = [
            try notifiers.register(paired), try notifiers.register(refusing, style: .refusable),
            try notifiers.register(late),
        ]
        let interval = try notifiers.insert(client, over: span(0, 10))
        #expect(isRefused(clear(span(0, 1), blockable: false)))
        #expect(paired.notes == ["start", "end"] && refusing.notes == ["refuse"] && late.notes == ["start", "end"])
        #expect(notifiers.sequence.running == 0 && !notifiers.sequence.isFrozen)
        #expect(interval.readBegin() == 3, "the interval had set its number, and a reader does not wait for ever")
        #expect(notifiers.checkInvariants().isEmpty)
        interval.remove()
        registrations.forEach(notifiers.unregister)
    }

    @Test("INV-NT-7: a non-blockable invalidation goes through when nobody is in the way")
    func nonBlockable() throws {
        let interval = try notifiers.insert(client, over: span(0, 10))
        #expect(!isRefused(clear(span(0, 1), blockable: false)))
        #expect(client.heardEvents == [.clear])
        interval.remove()
    }

    @Test("release reaches every interval once, and nobody subscribes afterwards")
    func release() throws {
        let intervals = [
            try notifiers.insert(client, over: span(0, 10)),
            try notifiers.insert(client, over: PageNumber(1 << 35)..<Geometry.endPage),
        ]
        notifiers.release()
        #expect(client.heardEvents == [.release, .release])
        #expect(throws: HMMError(.invalidArgument)) { try notifiers.insert(client, over: span(0, 1)) }
        #expect(throws: HMMError(.invalidArgument)) { try notifiers.register(RecordingListClient()) }
        intervals.forEach { $0.remove() }
        #expect(notifiers.checkInvariants().isEmpty)
    }

    @Test("empty ranges and ranges behind the last byte address are refused")
    func badRanges() {
        #expect(throws: HMMError(.overflow)) { try notifiers.insert(client, over: span(3, 3)) }
        #expect(throws: HMMError(.overflow)) { try notifiers.insert(client, over: span(3, 1 << 53)) }
    }

    @Test("one invalidation over thousands of intervals calls each once, in the order of addresses")
    func manyIntervals() throws {
        var intervals: [IntervalNotifier] = []
        for index in 0..<4000 as Range<UInt64> {
            intervals.append(try notifiers.insert(client, over: span(index * 10, index * 10 + 5)))
        }
        Invalidation.begin(notifiers, clear(span(100, 20_003))).end()
        #expect(client.heardEvents.count == 1991)
        #expect(client.sequences.allSatisfy { $0 == 3 })
        intervals.forEach { $0.remove() }
        #expect(notifiers.checkInvariants().isEmpty)
    }

    @Test("without a subscription an invalidation is counted, and nothing else")
    func unobserved() throws {
        let invalidation = Invalidation.begin(notifiers, clear(span(0, 1)))
        #expect(notifiers.unobserved.load(ordering: .relaxed) == 1 && notifiers.sequence.running == 0)
        invalidation.end()
        #expect(notifiers.unobserved.load(ordering: .relaxed) == 0)
        #expect(notifiers.startCount.load(ordering: .relaxed) == 0)
    }

    @Test("an invalidation that is dropped traps")
    func droppedInvalidation() async {
        await #expect(processExitsWith: .failure) {
            _ = Invalidation.begin(MMUNotifiers(), InvalidationRange(.clear, span(0, 1)))
        }
    }

    @Test("INV-AS-10: an invalidation that begins under a table lock traps, also when nobody listens")
    func underTableLock() async {
        await #expect(processExitsWith: .failure) {
            let table = SpinLock(.pte)
            table.lock()
            Invalidation.begin(MMUNotifiers(), InvalidationRange(.clear, span(0, 1))).end()
        }
    }

    @Test("a blockable invalidation that is refused traps")
    func refusedBlockable() async {
        await #expect(processExitsWith: .failure) {
            final class Refusing: IntervalNotifierClient {
                func invalidate(_: IntervalNotifier, _: InvalidationRange, sequence: UInt64) -> Bool { false }
            }
            let notifiers = MMUNotifiers()
            let client = Refusing()
            _ = try notifiers.insert(client, over: span(0, 1))
            Invalidation.begin(notifiers, InvalidationRange(.clear, span(0, 1))).end()
        }
    }
}
