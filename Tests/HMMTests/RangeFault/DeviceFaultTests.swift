import Synchronization
import Testing

@testable import HMM

/// Aim: the device fault loop ends, with the right outcome, whoever works against it.
@Suite("Device fault loop", .serialized)
struct DeviceFaultTests {
    /// A mirror that stores nothing: it only decides.
    func commit(_ f: RangeFaultFixture, _ range: borrowing HMMRange) -> Bool {
        f.client.userLock.withLock { !range.mustRetry() }
    }

    func isLocked(_ f: RangeFaultFixture) -> Bool { f.space.mmapLock.isLocked }

    @Test("a quiet fault takes one round")
    func quiet() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<8)
        var range = HMMRange(f.interval, f.region(0..<8))
        range.defaultRequest = [.fault, .write]
        var mapped = ""
        let rounds = try f.space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) in
            mapped = RangeFaultFixture.letters(range)
            return commit(f, range)
        }
        #expect(rounds == 1 && mapped == "wwwwwwww")
        #expect(f.machine.statistics.deviceFaults.count == 1)
    }

    @Test("INV-FP-1: rounds that are voided end in one with everybody kept out")
    func pessimisticRound() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<1)
        var range = HMMRange(f.interval, f.region(0..<1))
        range.defaultRequest = .fault
        var rounds = 0
        var wasWriteLocked = false
        let total = try f.space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) in
            rounds += 1
            if rounds <= 3 {
                // Somebody who is faster every time.
                Invalidation.begin(f.space.notifiers, InvalidationRange(.clear, f.region(0..<1))).end()
            } else {
                wasWriteLocked = f.space.mmapLock.isWriteLocked
            }
            return commit(f, range)
        }
        #expect(total == 4 && rounds == 4 && wasWriteLocked)
        #expect(!isLocked(f))
    }

    @Test("INV-FP-4: errors are those of the mapping, and every lock is back")
    func errors() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<2, .read)
        var range = HMMRange(f.interval, f.region(0..<2))
        range.defaultRequest = [.fault, .write]
        do {
            _ = try f.space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) in commit(f, range) }
            Issue.record("a read-only mapping was written")
        } catch { #expect(error == HMMError(.notPermitted)) }
        #expect(!isLocked(f))
    }

    @Test("the test driver's deadline is the only way to EBUSY")
    func deadline() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<1)
        var range = HMMRange(f.interval, f.region(0..<1))
        range.defaultRequest = .fault
        var policy = DeviceFaultPolicy()
        policy.deadlineNanoseconds = 3_000_000
        do {
            _ = try f.space.deviceFault(&range, policy: policy) { (_: borrowing HMMRange) throws(HMMError) in false }
            Issue.record("no end was reached")
        } catch { #expect(error == HMMError(.busy)) }
    }

    @Test("R6, R8: faults succeed beside CPU writes, copy-on-write, and changes of protection")
    func againstTheCPU() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<4)
        let isDone = Atomic<Bool>(false)
        let (space, region) = (f.space, f.region(0..<4))
        let actor = SyncThread.spawn(name: "actor") {
            let cpu = space.makeCPU()
            var value: UInt64 = 0
            while !isDone.load(ordering: .relaxed) {
                value += 1
                try? cpu.store(value, at: region.lowerBound.address)
                if value % 3 == 0 {
                    try? space.protect(region, .read)
                    try? space.protect(region, .readWrite)
                }
                if value % 5 == 0 { try? space.advise(region, .dontneed) }
                if value % 7 == 0, let child = try? space.fork() {
                    try? cpu.store(value, at: region.lowerBound.address)
                    child.exit()
                }
            }
            space.removeCPU(cpu)
        }
        for _ in 0..<2000 {
            var range = HMMRange(f.interval, region)
            range.defaultRequest = [.fault, .write]
            do {
                _ = try f.space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) in
                    let isValid = commit(f, range)
                    if isValid { #expect(RangeFaultFixture.letters(range) == "wwww", "INV-RF-2") }
                    return isValid
                }
            } catch {
                // The mapping was read-only for a moment.
                #expect(error == HMMError(.notPermitted))
            }
        }
        isDone.store(true, ordering: .relaxed)
        actor.join()
    }

    @Test("holds and turns: nobody is overtaken by who came later, and correctness never waits")
    func turns() throws {
        let f = try RangeFaultFixture()
        let turns = f.space.notifiers.turns
        let device = NotifierOwner(device: 1, mirror: 1)
        #expect(turns.take(f.region(0..<1)) == nil, "without holds nothing is counted")
        turns.hold(f.region(0..<1), owner: device, untilNanoseconds: SyncClock.now() + 20_000_000)
        let begin = SyncClock.now()
        let own = turns.take(f.region(0..<1), owner: device)
        let elsewhere = turns.take(f.region(1..<2))
        #expect(SyncClock.now() - begin < 15_000_000, "the holder and other pages do not wait")
        if let own { turns.give(own) }
        if let elsewhere { turns.give(elsewhere) }
        let turn = turns.take(f.region(0..<1))
        #expect(SyncClock.now() - begin >= 15_000_000)
        let isTaken = Atomic<Bool>(false)
        let region = f.region(0..<1)
        let late = SyncThread.spawn(name: "device") {
            let turn = turns.take(region, owner: device)
            isTaken.store(true, ordering: .releasing)
            if let turn { turns.give(turn) }
        }
        SyncClock.sleep(nanoseconds: 5_000_000)
        let wasOvertaken = isTaken.load(ordering: .acquiring)
        #expect(!wasOvertaken, "INV-FP-2: the access that came first has not finished")
        Invalidation.begin(f.space.notifiers, InvalidationRange(.unmap, region)).end()
        if let turn { turns.give(turn) }
        late.join()
    }
}
