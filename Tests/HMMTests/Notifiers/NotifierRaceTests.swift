import Synchronization
import Testing

@testable import HMM

/// Aim: the races R1 to R4 of the specification, and the invariant all of it is for: a translation that was committed
/// never outlives an invalidation.
/// Method: threads of the system, many rounds; the explorer runs the same bodies under every schedule.
@Suite("Races of notifiers", .serialized)
struct NotifierRaceTests {
    /// One page with a "CPU entry" that actors change and readers copy into their mirror.
    final class Page: Sendable {
        /// What the CPU's entry says: a number that moves with each change; 0 while it is being changed.
        let entry = Atomic<UInt64>(1)
    }

    /// A reader's mirror of the page.
    final class Mirror: IntervalNotifierClient, @unchecked Sendable {
        let userLock = FairMutex(.driver)
        /// Guarded by `userLock`: the entry that was copied, 0 for none.
        var copy: UInt64 = 0

        func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
            if range.isBlockable { userLock.lock() } else if !userLock.tryLock() { return false }
            notifier.setSequence(sequence)
            copy = 0
            userLock.unlock()
            return true
        }

        /// The device fault loop in small. Returns the number of rounds.
        func fault(_ interval: IntervalNotifier, _ page: Page) -> Int {
            var rounds = 0
            while true {
                rounds += 1
                let sequence = interval.readBegin()
                let seen = page.entry.load(ordering: .acquiring)
                userLock.lock()
                defer { userLock.unlock() }
                if interval.readRetry(sequence) { continue }
                #expect(seen != 0, "INV-NT-4: committed what an invalidation was changing")
                copy = seen
                return rounds
            }
        }
    }

    /// Changes the page's entry as an actor must. False if that was refused.
    static func change(
        _ notifiers: MMUNotifiers, _ page: Page, over range: InvalidationRange, to next: UInt64
    ) -> Bool {
        guard let invalidation = Invalidation.tryBegin(notifiers, range) else { return false }
        page.entry.store(0, ordering: .releasing)
        page.entry.store(next, ordering: .releasing)
        invalidation.end()
        return true
    }

    @Test("R1, R4: readers and overlapping, partly refused invalidations of one page", arguments: [true, false])
    func readersAndActors(isBlockable: Bool) throws {
        let notifiers = MMUNotifiers()
        let page = Page()
        let mirrors = [Mirror(), Mirror()]
        let intervals = try mirrors.map { try notifiers.insert($0, over: span(0, 8)) }
        let next = Atomic<UInt64>(2)
        withThreads(4) { index in
            for _ in 0..<2000 {
                if index < 2 {
                    _ = mirrors[index].fault(intervals[index], page)
                } else {
                    let range = InvalidationRange(.clear, span(UInt64(index), 8), isBlockable: isBlockable)
                    _ = Self.change(
                        notifiers, page, over: range, to: next.add(1, ordering: .relaxed).oldValue)
                }
            }
        }
        for (mirror, interval) in zip(mirrors, intervals) {
            #expect(mirror.copy == 0 || mirror.copy == page.entry.load(ordering: .relaxed), "INV-NT-6")
            interval.remove()
        }
        #expect(notifiers.checkInvariants().isEmpty && notifiers.subscriptionCount == 0)
    }

    @Test("R2, R3: intervals come and go while others invalidate; a removed one is never called again")
    func insertAndRemove() throws {
        let notifiers = MMUNotifiers()
        let page = Page()
        let next = Atomic<UInt64>(2)
        withThreads(4) { index in
            for _ in 0..<1000 {
                guard index < 3 else {
                    let range = InvalidationRange(.clear, span(0, 8))
                    _ = Self.change(notifiers, page, over: range, to: next.add(1, ordering: .relaxed).oldValue)
                    continue
                }
                let mirror = Mirror()
                let interval = try! notifiers.insert(mirror, over: span(UInt64(index), 8))
                _ = mirror.fault(interval, page)
                interval.remove()
                // The mirror goes now: a late callback would trap on its unowned reference.
            }
        }
        #expect(notifiers.checkInvariants().isEmpty && notifiers.subscriptionCount == 0)
    }

    @Test("the first subscription waits for invalidations that began when nobody listened")
    func firstSubscription() throws {
        for _ in 0..<300 {
            let notifiers = MMUNotifiers()
            let page = Page()
            withThreads(2) { index in
                if index == 0 {
                    for value in 2...20 as ClosedRange<UInt64> {
                        _ = Self.change(notifiers, page, over: InvalidationRange(.clear, span(0, 1)), to: value)
                    }
                } else {
                    let mirror = Mirror()
                    let interval = try! notifiers.insert(mirror, over: span(0, 1))
                    _ = mirror.fault(interval, page)
                    interval.remove()
                }
            }
            #expect(notifiers.checkInvariants().isEmpty)
        }
    }

    @Test("a list notifier that registers in the middle hears of starts and ends in pairs")
    func registerAndUnregister() throws {
        let notifiers = MMUNotifiers()
        withThreads(3) { index in
            for _ in 0..<500 {
                guard index == 0 else {
                    Invalidation.begin(notifiers, InvalidationRange(.clear, span(0, 1))).end()
                    continue
                }
                let client = RecordingListClient()
                let registration = try! notifiers.register(client)
                notifiers.unregister(registration)
                var open = 0
                for note in client.notes {
                    if note == "start" { open += 1 }
                    if note == "end" { open -= 1 }
                    #expect(open >= 0, "an end without its start")
                }
                #expect(client.notes.last == "released")
            }
        }
        #expect(notifiers.checkInvariants().isEmpty)
    }
}

/// Runs `body` on `count` threads, numbered from 0, and waits for all.
func withThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    let threads = (0..<count).map { index in SyncThread.spawn(name: "test \(index)") { body(index) } }
    threads.forEach { $0.join() }
}
