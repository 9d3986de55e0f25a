import Synchronization
import Testing

@testable import HMM

@Suite struct WaitQueueTests {
    /// Six threads sleep one after the other; each wake reaches the one that has slept longest.
    @Test func wakesInOrderOfArrival() {
        let shared = Guarded()
        let tickets = Atomic<Int>(0)
        let key: UInt = 0x1000
        let threads = (0..<6).map { index in
            let thread = SyncThread.spawn(name: "sleeper") {
                var isFirst = true
                WaitQueue.wait(on: key) {
                    defer { isFirst = false }
                    return isFirst
                }
                shared.log.append(index)
                tickets.add(1, ordering: .releasing)
            }
            #expect(eventually { WaitQueue.sleeperCount(key) == index + 1 })
            return thread
        }
        for index in 0..<6 {
            #expect(WaitQueue.wakeOne(key))
            #expect(eventually { tickets.load(ordering: .acquiring) == index + 1 })
        }
        #expect(!WaitQueue.wakeOne(key))
        for thread in threads { thread.join() }
        #expect(shared.log.all == [0, 1, 2, 3, 4, 5])
    }

    /// The first sleeper is woken while its condition still holds. It keeps its place before the second.
    @Test func aThreadWokenInVainKeepsItsPlace() {
        let shared = Guarded()
        let looks = Atomic<Int>(0)
        let key: UInt = 0x2000
        let threads = (0..<2).map { index in
            let thread = SyncThread.spawn(name: "sleeper") {
                WaitQueue.wait(on: key) {
                    if index == 0 { looks.add(1, ordering: .relaxed) }
                    return shared.flag.load(ordering: .relaxed) == 0
                }
                shared.log.append(index)
            }
            #expect(eventually { WaitQueue.sleeperCount(key) == index + 1 })
            return thread
        }
        #expect(WaitQueue.wakeOne(key))
        #expect(eventually { looks.load(ordering: .relaxed) == 2 && WaitQueue.sleeperCount(key) == 2 })
        shared.flag.store(1, ordering: .relaxed)
        #expect(WaitQueue.wakeOne(key))
        threads[0].join()
        #expect(shared.log.all == [0])
        #expect(WaitQueue.wakeOne(key))
        threads[1].join()
        #expect(shared.log.all == [0, 1])
    }

    @Test func wakeAllReachesItsKeyOnly() {
        let shared = Guarded()
        let other: UInt = 0x3000
        let key: UInt = 0x4000
        let open = Atomic<UInt32>(0)
        let bystander = SyncThread.spawn(name: "bystander") {
            WaitQueue.wait(on: other) { open.load(ordering: .relaxed) == 0 }
        }
        let threads = (0..<4).map { _ in
            SyncThread.spawn(name: "sleeper") {
                WaitQueue.wait(on: key) { shared.flag.load(ordering: .relaxed) == 0 }
            }
        }
        #expect(eventually { WaitQueue.sleeperCount(key) == 4 && WaitQueue.sleeperCount(other) == 1 })
        shared.flag.store(1, ordering: .relaxed)
        WaitQueue.wakeAll(key)
        for thread in threads { thread.join() }
        #expect(WaitQueue.sleeperCount(other) == 1)
        open.store(1, ordering: .relaxed)
        WaitQueue.wakeAll(other)
        bystander.join()
    }

    /// Ping-pong: a lost wake would hang.
    @Test func noWakeIsLost() {
        let turn = Guarded()
        onThreads(2) { me in
            for round in 0..<5_000 {
                let mine = UInt32(2 * round + me)
                WaitQueue.wait(on: 0x5000) { turn.flag.load(ordering: .acquiring) != mine }
                turn.flag.store(mine + 1, ordering: .releasing)
                WaitQueue.wakeAll(0x5000)
            }
        }
        #expect(turn.flag.load(ordering: .relaxed) == 10_000)
    }
}

@Suite struct SequenceCountTests {
    /// A writer moves two words together. Torn pairs are seen, and each is refused by `readRetry`.
    @Test func tornReadsAreRefused() {
        let shared = Guarded()
        let accepted = Atomic<Int>(0)
        let torn = Atomic<Int>(0)
        onThreads(3) { index in
            if index == 0 {
                for _ in 0..<100_000 {
                    shared.sequence.writeBegin()
                    shared.words.forEach { $0.incrementUnprotected() }
                    shared.sequence.writeEnd()
                }
                shared.flag.store(1, ordering: .releasing)
                return
            }
            while shared.flag.load(ordering: .acquiring) == 0 {
                let start = shared.sequence.readBegin()
                let first = shared.words[0].value.load(ordering: .relaxed)
                let second = shared.words[1].value.load(ordering: .relaxed)
                if shared.sequence.readRetry(start) { continue }
                accepted.add(1, ordering: .relaxed)
                if first != second { torn.add(1, ordering: .relaxed) }
            }
        }
        #expect(torn.load(ordering: .relaxed) == 0)
        #expect(shared.sequence.current == 200_000)
    }
}
