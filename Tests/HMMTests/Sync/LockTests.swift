import Synchronization
import Testing

@testable import HMM

/// Storage that locks of the tests protect; which lock, is what each test checks.
final class Guarded: Sendable {
    let spin = SpinLock(.leaf)
    let mutex = FairMutex(.driver)
    let rw = RWLock(.mmap)
    let sequence = SequenceCount()
    let words = [0, 0].map { Cell($0) }
    let flag = Atomic<UInt32>(0)
    let log = Log()

    /// A word without protection of its own, so that lost updates show.
    final class Cell: Sendable {
        let value: Atomic<Int>
        init(_ value: Int) { self.value = Atomic(value) }
        func incrementUnprotected() {
            value.store(value.load(ordering: .relaxed) + 1, ordering: .relaxed)
        }
    }

    /// A list that several threads append to.
    final class Log: @unchecked Sendable {
        private let lock = SpinLock(.leaf)
        // Guarded by lock.
        private var entries: [Int] = []
        func append(_ entry: Int) { lock.withLock { entries.append(entry) } }
        var all: [Int] { lock.withLock { entries } }
    }
}

/// Runs `count` threads of the system and waits for them.
func onThreads(_ count: Int, _ body: @Sendable @escaping (Int) -> Void) {
    let threads = (0..<count).map { index in SyncThread.spawn(name: "test \(index)") { body(index) } }
    for thread in threads { thread.join() }
}

/// Hides an expression from the expectation macro, which copies what it takes apart; locks cannot be copied.
func claim(_ value: Bool) -> Bool { value }

/// Waits until `condition` holds; a bound keeps a broken test from hanging.
func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<20_000 {
        if condition() { return true }
        SyncClock.sleep(nanoseconds: 500_000)
    }
    return false
}

@Suite struct LockTests {
    static let rounds = 20_000

    @Test func spinLockExcludes() {
        let shared = Guarded()
        onThreads(4) { _ in
            for _ in 0..<Self.rounds { shared.spin.withLock { shared.words[0].incrementUnprotected() } }
        }
        #expect(shared.words[0].value.load(ordering: .relaxed) == 4 * Self.rounds)
        #expect(claim(!shared.spin.isLocked))
        #expect(SyncThread.heldLockCount == 0)
    }

    @Test func fairMutexExcludes() {
        let shared = Guarded()
        onThreads(4) { _ in
            for _ in 0..<2_000 { shared.mutex.withLock { shared.words[0].incrementUnprotected() } }
        }
        #expect(shared.words[0].value.load(ordering: .relaxed) == 8_000)
        #expect(claim(!shared.mutex.isLocked))
    }

    @Test func writersExcludeReadersAndWriters() {
        let shared = Guarded()
        let torn = Atomic<Int>(0)
        onThreads(4) { index in
            for round in 0..<2_000 {
                if index == 0 || round % 16 == 0 {
                    shared.rw.withWrite { shared.words.forEach { $0.incrementUnprotected() } }
                } else {
                    shared.rw.withRead {
                        let seen = shared.words.map { $0.value.load(ordering: .relaxed) }
                        if seen[0] != seen[1] { torn.add(1, ordering: .relaxed) }
                    }
                }
            }
        }
        #expect(torn.load(ordering: .relaxed) == 0)
        #expect(shared.words[0].value.load(ordering: .relaxed) == 2_000 + 3 * 125)
        #expect(claim(!shared.rw.isLocked))
    }

    @Test func tryVariantsNeverWait() {
        let shared = Guarded()
        #expect(claim(shared.spin.tryLock() && shared.mutex.tryLock() && shared.rw.tryLockRead()))
        onThreads(1) { _ in
            #expect(claim(!shared.spin.tryLock() && !shared.mutex.tryLock() && !shared.rw.tryLockWrite()))
            #expect(claim(shared.rw.tryLockRead()))
            shared.rw.unlockRead()
        }
        #expect(claim(shared.rw.isLocked && !shared.rw.isWriteLocked))
        shared.rw.unlockRead()
        shared.mutex.unlock()
        shared.spin.unlock()
        #expect(SyncThread.heldLockCount == 0)
    }

    @Test func fairMutexIsHandedOnInOrderOfArrival() {
        let shared = Guarded()
        shared.mutex.lock()
        let threads = (0..<6).map { index in
            let thread = SyncThread.spawn(name: "waiter") { shared.mutex.withLock { shared.log.append(index) } }
            #expect(eventually { WaitQueue.sleeperCount(shared.mutex.address) == index + 1 })
            return thread
        }
        shared.mutex.unlock()
        for thread in threads { thread.join() }
        #expect(shared.log.all == [0, 1, 2, 3, 4, 5])
    }

    /// Held by a reader; then arrive W0 R1 R2 W3 R4. The late readers do not join the first one.
    @Test func readersWaitBehindAWaitingWriter() {
        let shared = Guarded()
        shared.rw.lockRead()
        let threads = (0..<5).map { index in
            let thread = SyncThread.spawn(name: "waiter") {
                if index % 3 == 0 {
                    shared.rw.withWrite { shared.log.append(index) }
                } else {
                    shared.rw.withRead { shared.log.append(index) }
                }
            }
            #expect(eventually { WaitQueue.sleeperCount(shared.rw.address) == index + 1 })
            return thread
        }
        #expect(claim(!shared.rw.tryLockRead()))
        shared.rw.unlockRead()
        for thread in threads { thread.join() }
        let order = shared.log.all
        #expect(order == [0, 1, 2, 3, 4] || order == [0, 2, 1, 3, 4])
        #expect(claim(!shared.rw.isLocked))
    }

    /// Four readers overlap without a pause; the writer still comes in.
    @Test func writerIsNotStarved() {
        let shared = Guarded()
        let threads = (0..<4).map { _ in
            SyncThread.spawn(name: "reader") {
                while shared.flag.load(ordering: .relaxed) == 0 { shared.rw.withRead { SyncThread.yield() } }
            }
        }
        for _ in 0..<50 { shared.rw.withWrite { shared.words[0].incrementUnprotected() } }
        shared.flag.store(1, ordering: .relaxed)
        for thread in threads { thread.join() }
        #expect(shared.words[0].value.load(ordering: .relaxed) == 50)
    }

    @Test func downgradeLetsWaitingReadersInButNoWriter() {
        let shared = Guarded()
        shared.rw.lockWrite()
        let reader = SyncThread.spawn(name: "reader") { shared.rw.withRead { shared.log.append(1) } }
        #expect(eventually { WaitQueue.sleeperCount(shared.rw.address) == 1 })
        let writer = SyncThread.spawn(name: "writer") { shared.rw.withWrite { shared.log.append(2) } }
        #expect(eventually { WaitQueue.sleeperCount(shared.rw.address) == 2 })
        shared.rw.downgrade()
        reader.join()
        #expect(shared.log.all == [1])
        #expect(claim(shared.rw.isLocked && !shared.rw.isWriteLocked))
        shared.rw.unlockRead()
        writer.join()
        #expect(shared.log.all == [1, 2])
    }

    /// All ways in and out of the lock at random. The word counts what is inside: readers, or a writer as 1000.
    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func everyMixOfReadersAndWritersIsConsistent(seed: UInt64) {
        let shared = Guarded()
        let inside = Atomic<Int>(0)
        let wrong = Atomic<Int>(0)
        @Sendable func visit(_ weight: Int) {
            let before = inside.add(weight, ordering: .relaxed).oldValue
            if weight == 1000 ? before != 0 : before >= 1000 { wrong.add(1, ordering: .relaxed) }
        }
        onThreads(4) { index in
            var random = seed &* 100 &+ UInt64(index)
            for _ in 0..<2_000 {
                let choice = SplitMix.next(&random) % 8
                if choice < 4 || (choice == 4 && shared.rw.tryLockRead()) {
                    if choice != 4 { shared.rw.lockRead() }
                    visit(1)
                    if choice == 0 { SyncThread.yield() }
                    inside.subtract(1, ordering: .relaxed)
                    shared.rw.unlockRead()
                } else if choice >= 6 || (choice == 5 && shared.rw.tryLockWrite()) {
                    if choice != 5 { shared.rw.lockWrite() }
                    visit(1000)
                    if choice == 7 { SyncThread.yield() }
                    inside.subtract(1000, ordering: .relaxed)
                    guard choice == 6 else {
                        shared.rw.unlockWrite()
                        continue
                    }
                    shared.rw.downgrade()
                    visit(1)
                    inside.subtract(1, ordering: .relaxed)
                    shared.rw.unlockRead()
                }
            }
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
        #expect(claim(!shared.rw.isLocked))
    }

    @Test func spinLockLivesInRawMemory() {
        #expect(MemoryLayout<SpinLock>.size == 4 && MemoryLayout<SpinLock>.stride == 4)
        let locks = UnsafeMutablePointer<SpinLock>.allocate(capacity: 8)
        for index in 0..<8 { (locks + index).initialize(to: SpinLock(.pte)) }
        locks[3].lock()
        #expect(claim(locks[3].isLocked && !locks[2].isLocked && !locks[4].isLocked))
        #expect(claim(locks[3].address == UInt(bitPattern: locks + 3)))
        #expect(claim(locks[3].lockClass == .pte))
        locks[3].unlock()
        locks.deinitialize(count: 8)
        locks.deallocate()
    }
}
