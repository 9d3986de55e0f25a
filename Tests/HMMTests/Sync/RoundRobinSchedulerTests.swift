import Synchronization
import Testing

@testable import HMM

@Suite struct RoundRobinSchedulerTests {
    /// Three threads, one lock of each kind; the schedule is a function of the program alone.
    private func mixedRun() -> (RoundRobinScheduler.Outcome, [Int]) {
        let shared = Guarded()
        let bodies = (0..<3).map { index in
            {
                for _ in 0..<3 {
                    shared.rw.withRead {
                        shared.mutex.withLock { shared.log.append(index) }
                    }
                    SyncClock.sleep(nanoseconds: SyncRandom.next() % 1000)
                    shared.rw.withWrite { shared.spin.withLock { shared.words[0].incrementUnprotected() } }
                }
            }
        }
        let outcome = RoundRobinScheduler.run(seed: 7, bodies)
        #expect(shared.words[0].value.load(ordering: .relaxed) == 9)
        return (outcome, shared.log.all)
    }

    @Test func theSameProgramRunsTheSameWayTwice() {
        let (first, firstLog) = mixedRun()
        let (second, secondLog) = mixedRun()
        #expect(first.ending == .finished)
        #expect(first.violations.isEmpty && first.leftLocks == 0)
        #expect(first.trace == second.trace && firstLog == secondLog)
        #expect(first.nanoseconds == second.nanoseconds)
        #expect(Set(first.trace.map(\.thread)) == [0, 1, 2])
    }

    @Test func threadsTakeTurnsAtEverySchedulingPoint() {
        let log = Guarded.Log()
        var order: [Int] = []
        let bodies = (0..<3).map { index in
            {
                for _ in 0..<3 {
                    schedulingPoint(.load, on: 1)
                    order.append(index)
                }
            }
        }
        let outcome = RoundRobinScheduler.run(bodies)
        #expect(outcome.ending == .finished)
        #expect(order == [0, 1, 2, 0, 1, 2, 0, 1, 2])
        #expect(log.all.isEmpty)
    }

    @Test func twoMutexesInOppositeOrderAreADeadlock() throws {
        let a = FairMutex(.driver)
        let b = FairMutex(.mirrorDirectory)
        let outcome = RoundRobinScheduler.run([
            { a.withLock { b.withLock {} } },
            { b.withLock { a.withLock {} } },
        ])
        guard case .deadlock(let blocked) = outcome.ending else {
            Issue.record("\(outcome.ending)")
            return
        }
        #expect(blocked.map(\.thread) == [0, 1])
        #expect(blocked[0].object != blocked[1].object)
        let violation = try #require(outcome.violations.first)
        #expect(outcome.violations.count == 1)
        #expect(violation.kind == .order)
        #expect(violation.lockClass == .driver && violation.held == .mirrorDirectory)
        #expect(violation.object == a.address && violation.heldObject == b.address)
    }

    /// Each primitive that waits, blocked by a thread that never lets go.
    @Test func aSleeperThatNobodyWakesIsADeadlock() {
        let shared = Guarded()
        let waits: [() -> Void] = [
            { shared.spin.lock() }, { shared.mutex.lock() }, { shared.rw.lockRead() }, { shared.rw.lockWrite() },
            { _ = shared.sequence.readBegin() }, { WaitQueue.wait(on: 0x6000) { true } },
        ]
        for wait in waits {
            let shared = shared
            let outcome = RoundRobinScheduler.run([
                {
                    if !shared.spin.isLocked {
                        _ = shared.rw.tryLockWrite() && shared.mutex.tryLock() && shared.spin.tryLock()
                        shared.sequence.writeBegin()
                    }
                    wait()
                }
            ])
            guard case .deadlock(let blocked) = outcome.ending else {
                Issue.record("\(outcome.ending)")
                continue
            }
            #expect(blocked.count == 1)
        }
    }

    @Test func aLoopThatOnlyYieldsRunsIntoTheLimit() {
        let outcome = RoundRobinScheduler.run(stepLimit: 1000, [{ while true { SyncThread.yield() } }])
        #expect(outcome.ending == .stepLimit)
        #expect(outcome.trace.count == 1000)
    }

    @Test func timeIsVirtual() {
        let shared = Guarded()
        var times: [UInt64] = []
        let realStart = SyncClock.now()
        let hour: UInt64 = 3_600_000_000_000
        let outcome = RoundRobinScheduler.run([
            {
                SyncClock.sleep(nanoseconds: 2 * hour)
                times.append(SyncClock.now())
                shared.log.append(2)
            },
            {
                SyncClock.sleep(nanoseconds: hour)
                times.append(SyncClock.now())
                shared.log.append(1)
            },
        ])
        #expect(outcome.nanoseconds == 2 * hour)
        #expect(times == [hour, 2 * hour] && shared.log.all == [1, 2])
        #expect(SyncClock.now() - realStart < hour)
    }

    @Test func spawnedThreadsAreVirtualAndJoined() {
        let shared = Guarded()
        let outcome = RoundRobinScheduler.run([
            {
                let threads = (0..<4).map { index in
                    SyncThread.spawn(name: "child \(index)") {
                        shared.mutex.withLock { shared.words[0].incrementUnprotected() }
                    }
                }
                for thread in threads { thread.join() }
                #expect(claim(threads.allSatisfy { $0.isFinished }))
            }
        ])
        #expect(outcome.ending == .finished)
        #expect(Set(outcome.trace.map(\.thread)).count == 5)
        #expect(shared.words[0].value.load(ordering: .relaxed) == 4)
    }

    /// The first thread holds the lock while the others arrive one after the other.
    @Test func virtualThreadsAreServedInOrderOfArrival() {
        let shared = Guarded()
        let outcome = RoundRobinScheduler.run([
            { shared.mutex.withLock { for _ in 0..<5 { SyncThread.yield() } } },
            { shared.mutex.withLock { shared.log.append(1) } },
            { shared.mutex.withLock { shared.log.append(2) } },
            { shared.mutex.withLock { shared.log.append(3) } },
        ])
        #expect(outcome.ending == .finished)
        #expect(shared.log.all == [1, 2, 3])
    }

    @Test func lockedWithoutUnlockIsCounted() {
        let shared = Guarded()
        let outcome = RoundRobinScheduler.run([{ shared.mutex.lock() }])
        #expect(outcome.ending == .finished && outcome.leftLocks == 1)
    }

    /// One scheduler on each of several threads, beside a thread that uses the same kinds of lock for real.
    @Test func schedulersOfSeveralThreadsDoNotMeet() {
        let real = Guarded()
        onThreads(4) { index in
            for _ in 0..<50 {
                if index == 0 {
                    real.mutex.withLock { real.words[0].incrementUnprotected() }
                } else {
                    #expect(mixedRun().0.ending == .finished)
                    real.mutex.withLock { real.words[0].incrementUnprotected() }
                }
            }
        }
        #expect(real.words[0].value.load(ordering: .relaxed) == 200)
    }

    /// A reader of the sequence count never keeps a torn pair, in a schedule that shows it many.
    @Test func tornReadsAreSeenAndRefused() {
        let shared = Guarded()
        var retries = 0
        var pairs: [(Int, Int)] = []
        let outcome = RoundRobinScheduler.run([
            {
                for _ in 0..<20 {
                    shared.sequence.writeBegin()
                    shared.words[0].incrementUnprotected()
                    SyncThread.yield()
                    shared.words[1].incrementUnprotected()
                    shared.sequence.writeEnd()
                }
            },
            {
                for _ in 0..<20 {
                    let start = shared.sequence.readBegin()
                    let first = shared.words[0].value.load(ordering: .relaxed)
                    SyncThread.yield()
                    let second = shared.words[1].value.load(ordering: .relaxed)
                    if shared.sequence.readRetry(start) { retries += 1 } else { pairs.append((first, second)) }
                }
            },
        ])
        #expect(outcome.ending == .finished)
        #expect(retries > 0)
        #expect(claim(pairs.allSatisfy { $0.0 == $0.1 }))
    }
}
