import Glibc
import HMM
import HMMLive
import Synchronization
import Testing

/// A device's atomic access of several steps, in which the CPU must not come between: it waits at its fault.
@Suite("Atomic accesses of a device to the memory of the process", .enabled(if: canRunLive))
struct LiveAtomicTests {
    static let turns: UInt64 = 300

    /// Adds one, in three steps.
    private static func addSlowly(_ device: SoftwareDevice, to page: PageNumber) throws {
        try device.withPage(page, for: .atomic) { words in
            let old = words[0].load(ordering: .relaxed)
            for _ in 0..<4 { sched_yield() }
            words[0].store(old + 1, ordering: .relaxed)
        }
    }

    @Test(
        "a CPU that adds to the same word waits until the access is over",
        arguments: [(false, false), (false, true), (true, false), (true, true)])
    func nobodyComesBetween(hasMemory: Bool, usedBySystemCalls: Bool) throws {
        let live = try LiveFixture(pages: 2, usedBySystemCalls: usedBySystemCalls)
        let device = hasMemory ? live.device : try SoftwareDevice.attach(to: live.space, index: 900)
        let page = live.pages.lowerBound
        let (stop, added) = (Counter(), Counter())
        let cpu = Worker {
            while stop.count == 0 {
                Counter.add(1, at: live.buffer.elements.baseAddress!)
                added.add()
                sched_yield()
            }
        }
        for turn in 0..<Self.turns {
            if hasMemory, turn % 8 == 0 { _ = try device.prefetch(live.page(0)) }
            try Self.addSlowly(device, to: page)
        }
        stop.add()
        cpu.join()
        #expect(live.buffer.elements[0] == Self.turns + added.count)
        if !hasMemory { device.detach() }
        live.device.detach()
    }

    @Test("a hole is a page of zeros to an atomic access")
    func hole() throws {
        let live = try LiveFixture(pages: 2)
        _ = try live.device.prefetch(live.pages)
        #expect(try live.device.atomicAdd(3, at: live.address(512)) == 0)
        #expect(live.buffer.elements[512] == 3)
        live.device.detach()
    }

    @Test("a fork in the middle of an access: the child's page is held by nobody")
    func forks() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 2)
            live.buffer.elements[0] = 1
            let stop = Counter()
            let worker = Worker {
                while stop.count == 0 {
                    guard (try? live.device.prefetch(live.page(0))) != nil,
                        (try? LiveAtomicTests.addSlowly(live.device, to: live.pages.lowerBound)) != nil
                    else { fatalError("the device cannot have its page") }
                }
            }
            for _ in 0..<40 {
                let child = live.space.fork()
                if child == 0 { _exit(live.buffer.elements[0] > 0 ? 0 : 1) }
                var status: Int32 = 0
                waitpid(child, &status, 0)
                precondition(status == 0, "a child lost data")
            }
            stop.add()
            worker.join()
            exit(0)
        }
    }
}
