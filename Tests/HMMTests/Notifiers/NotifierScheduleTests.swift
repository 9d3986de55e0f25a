import Testing

@testable import HMM

/// Aim: the races R1 to R4 and R6 on virtual threads, in one fixed schedule each: nothing deadlocks, no lock order is
/// broken, no lock is left.
@Suite("Notifier races on virtual threads")
struct NotifierScheduleTests {
    typealias Page = NotifierRaceTests.Page
    typealias Mirror = NotifierRaceTests.Mirror

    private func expectClean(_ outcome: RoundRobinScheduler.Outcome) {
        #expect(outcome.ending == .finished && outcome.violations.isEmpty && outcome.leftLocks == 0)
    }

    @Test("R1: begin, start and end interleaved with two overlapping starts", arguments: 0..<8 as Range<UInt64>)
    func overlappingStarts(delay: UInt64) throws {
        let notifiers = MMUNotifiers()
        let (page, mirror) = (Page(), Mirror())
        let interval = try notifiers.insert(mirror, over: span(0, 8))
        let actor = { (index: UInt64) in
            for step in 0..<4 as Range<UInt64> {
                SyncClock.sleep(nanoseconds: delay * step * index)
                let range = InvalidationRange(.clear, span(index, 8))
                _ = NotifierRaceTests.change(notifiers, page, over: range, to: 100 * index + step + 2)
            }
        }
        expectClean(
            RoundRobinScheduler.run([
                { for _ in 0..<4 { _ = mirror.fault(interval, page) } }, { actor(1) }, { actor(2) },
            ]))
        interval.remove()
        #expect(notifiers.checkInvariants().isEmpty)
    }

    @Test("R2, R3: inserts and removals beside invalidations", arguments: 0..<8 as Range<UInt64>)
    func insertAndRemove(delay: UInt64) throws {
        let notifiers = MMUNotifiers()
        let page = Page()
        expectClean(
            RoundRobinScheduler.run([
                {
                    for value in 2..<8 as Range<UInt64> {
                        let range = InvalidationRange(.clear, span(0, 8))
                        _ = NotifierRaceTests.change(notifiers, page, over: range, to: value)
                    }
                },
                {
                    for _ in 0..<3 {
                        let mirror = Mirror()
                        SyncClock.sleep(nanoseconds: delay)
                        let interval = try! notifiers.insert(mirror, over: span(0, 4))
                        _ = mirror.fault(interval, page)
                        interval.remove()
                    }
                },
                {
                    for _ in 0..<3 {
                        let mirror = Mirror()
                        let interval = try! notifiers.insert(mirror, over: span(2, 4))
                        interval.remove()
                    }
                },
            ]))
        #expect(notifiers.checkInvariants().isEmpty && notifiers.subscriptionCount == 0)
    }

    @Test("R4: a refused start beside a reader that holds the user lock")
    func refusal() throws {
        let notifiers = MMUNotifiers()
        let (page, mirror) = (Page(), Mirror())
        let interval = try notifiers.insert(mirror, over: span(0, 8))
        var refusals = 0
        expectClean(
            RoundRobinScheduler.run([
                {
                    for _ in 0..<20 { mirror.userLock.withLock { SyncClock.sleep(nanoseconds: 1) } }
                },
                {
                    for value in 2..<12 as Range<UInt64> {
                        let range = InvalidationRange(.unmap, span(0, 1), isBlockable: false)
                        if !NotifierRaceTests.change(notifiers, page, over: range, to: value) { refusals += 1 }
                        SyncThread.yield()
                    }
                },
                { for _ in 0..<4 { _ = mirror.fault(interval, page) } },
            ]))
        #expect(refusals > 0, "the schedule has the race in it")
        interval.remove()
        #expect(notifiers.checkInvariants().isEmpty)
    }

    @Test("R6, R7: a device's faults against a CPU's writes and another device's, to an end")
    func deviceAgainstCPU() throws {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = 16 << 20
        configuration.profile = .next
        let space = try Machine(configuration).makeAddressSpace()
        let base = PageNumber(0x1000)
        try space.map(base..<base.advanced(by: 2), protection: .readWrite, kind: .anonymous(huge: false))
        let devices = try (0..<2).map { try SoftwareDevice.attach(to: space, index: $0) }
        let cpu = space.makeCPU()
        let outcome = RoundRobinScheduler.run([
            { for value in 0..<6 as Range<UInt64> { try! devices[0].store(value, at: base.address) } },
            { for value in 0..<6 as Range<UInt64> { try! devices[1].store(value, at: base.address) } },
            {
                for value in 0..<6 as Range<UInt64> {
                    try! cpu.store(value, at: base.address)
                    try! space.advise(base..<base.advanced(by: 1), .dontneed)
                }
            },
        ])
        expectClean(outcome)
        devices.forEach { $0.detach() }
        #expect(space.notifiers.checkInvariants().isEmpty)
        space.removeCPU(cpu)
        space.exit()
    }
}
