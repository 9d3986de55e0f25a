import Glibc
import Testing

@testable import HMM

/// Aim: a run under a scheduler leaves nothing behind, however its threads end.
/// Method: counts the mappings of the process and the objects that the threads were given.
@Suite(.serialized) struct VirtualThreadTests {
    /// Mappings of the whole process.
    private func mappingCount() throws -> Int {
        let file = try #require(fopen("/proc/self/maps", "r"))
        defer { fclose(file) }
        var count = 0
        while true {
            let character = getc(file)
            if character == EOF { return count }
            if character == 10 { count += 1 }
        }
    }

    /// Mappings that are left after `body` was called 1,000 times. Other tests that run beside this one map memory of
    /// their own, but nothing like two mappings a run.
    private func growth(_ body: () -> Void) throws -> Int {
        for _ in 0..<100 { body() }
        let before = try mappingCount()
        for _ in 0..<1000 { body() }
        return try mappingCount() - before
    }

    private final class Witness {}

    @Test func finishedThreadsLeaveNoStacks() throws {
        let grown = try growth {
            let mutex = FairMutex(.driver)
            let outcome = RoundRobinScheduler.run((0..<3).map { _ in { mutex.withLock { SyncThread.yield() } } })
            #expect(outcome.ending == .finished)
        }
        #expect(grown < 300)
    }

    @Test func abandonedThreadsLeaveNoStacks() throws {
        let grown = try growth {
            let outcome = RoundRobinScheduler.run((0..<3).map { _ in { WaitQueue.wait(on: 0x6000) { true } } })
            #expect(outcome.ending != .finished)
            #expect(RoundRobinScheduler.run(stepLimit: 9, [{ while true { SyncThread.yield() } }]).ending == .stepLimit)
        }
        #expect(grown < 300)
    }

    /// Finished threads release their bodies, themselves and their scheduler, whoever goes on after them.
    @Test func finishedThreadsReleaseAll() {
        weak var scheduler: InOrderScheduler?
        weak var body: Witness?
        weak var thread: VirtualThread?
        do {
            let witness = Witness()
            body = witness
            let used = InOrderScheduler()
            scheduler = used
            for _ in 0..<3 {
                used.spawn(name: "") { withExtendedLifetime(witness) { SyncThread.yield() } }
            }
            thread = used.threads.last
            used.run()
        }
        #expect(body == nil && thread == nil && scheduler == nil)
    }

    @Test func aThreadStartsAgainAfterEachEnd() {
        let scheduler = InOrderScheduler()
        var ran: [Int] = []
        scheduler.spawn(name: "") { ran.append(0) }
        scheduler.run()
        let thread = scheduler.threads[0]
        #expect(thread.isFinished)
        for turn in 1...3 {
            if turn == 2 { thread.discard() }
            thread.start { ran.append(turn) }
            #expect(!thread.isFinished)
            scheduler.run()
        }
        #expect(ran == [0, 1, 2, 3])
    }
}

/// Threads one after the other: each goes on until it has finished.
private final class InOrderScheduler: Scheduler {
    private(set) var threads: [VirtualThread] = []

    func run() { whileInstalled { threads.first?.enter() } }

    override func schedulingPoint(_ kind: SchedulingPoint.Kind, on object: UInt) {}

    override func spawn(name: String, _ body: @escaping () -> Void) {
        let thread = VirtualThread(index: threads.count, name: name, scheduler: self)
        thread.start(body)
        threads.append(thread)
    }

    override func finished(_ index: Int) -> VirtualThread? { threads.dropFirst(index + 1).first }
}
