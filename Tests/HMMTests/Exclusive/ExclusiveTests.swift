import Synchronization
import Testing

@testable import HMM

/// Remembers what it is told and lets go of everything.
private final class Witness: IntervalNotifierClient, @unchecked Sendable {
    let lock = FairMutex(.driver)
    // Guarded by `lock`.
    private var seen: [InvalidationRange] = []
    private var holding = Set<PageNumber>()
    let owner: NotifierOwner

    init(_ device: UInt32) { owner = NotifierOwner(device: device, mirror: 1) }

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if range.event == .exclusive, range.owner == owner { return true }
        return lock.withLock {
            notifier.setSequence(sequence)
            seen.append(range)
            for page in range.pages { holding.remove(page) }
            return true
        }
    }

    var events: [InvalidationEvent] { lock.withLock { seen.map(\.event) } }
    func holds(_ page: PageNumber) -> Bool { lock.withLock { holding.contains(page) } }

    /// Takes the page for this witness through the loop that drivers use.
    func take(_ page: PageNumber, _ space: AddressSpace, _ interval: IntervalNotifier) throws {
        var policy = DeviceFaultPolicy()
        policy.owner = owner
        _ = try space.exclusiveFault(page, interval: interval, policy: policy) { _, sequence throws(HMMError) in
            lock.withLock {
                if interval.readRetry(sequence) { return false }
                holding.insert(page)
                return true
            }
        }
    }

    /// Adds to a word of the page if this witness holds it, as an atomic of the device would.
    func add(_ page: PageNumber, _ frame: FrameNumber, _ space: AddressSpace) -> Bool {
        lock.withLock {
            guard holding.contains(page) else { return false }
            space.frames.words(of: frame)[0].wrappingAdd(1, ordering: .relaxed)
            return true
        }
    }
}

@Suite("Exclusive access")
struct ExclusiveTests {
    private static let owner = NotifierOwner(device: 7, mirror: 1)

    private func grant(_ f: Fixture, _ i: Int) throws(HMMError) {
        f.space.lockForReading()
        defer { f.space.unlockForReading() }
        try f.space.makeExclusive(f.pages(i..<i + 1).lowerBound, owner: Self.owner).release()
    }

    private func kind(_ f: Fixture, _ i: Int) -> SoftLeaf.Kind? {
        f.space.leaf(f.pages(i..<i + 1).lowerBound)?.0.softLeaf?.kind
    }

    private func fixture(_ profile: KernelProfile = .next, pages: Int = 8) throws -> Fixture {
        let f = try Fixture { $0.profile = profile }
        try f.space.map(f.pages(0..<pages), protection: .readWrite, kind: .anonymous())
        try f.write(0..<pages, 1)
        return f
    }

    @Test("INV-EX-2: counts are the same before, while and after")
    func countsStay() throws {
        let f = try fixture()
        let frame = try #require(f.space.leaf(f.pages(2..<3).lowerBound)).0.frame
        try grant(f, 2)
        #expect(kind(f, 2) == .deviceExclusive)
        #expect(f.machine.frames.refCount(frame) == 1)
        #expect(f.machine.frames.mappingCount(frame) == 1)
        f.checkInvariants()
        try f.expect(0..<8, 1)
        #expect(kind(f, 2) == nil)
        #expect(f.machine.frames.refCount(frame) == 1)
        f.checkInvariants()
        f.finish()
    }

    @Test func onlyWritableAnonymousPages() throws {
        let f = try fixture()
        try f.space.map(f.pages(8..<10), protection: .read, kind: .anonymous())
        try f.space.map(f.pages(10..<12), protection: .readWrite, kind: .sharedAnonymous)
        #expect(throws: HMMError(.badAddress)) { try grant(f, 8) }
        #expect(throws: HMMError(.badAddress)) { try grant(f, 30) }
        #expect(throws: HMMError(.notSupported)) { try grant(f, 10) }
        f.checkInvariants()
        f.finish()
    }

    @Test("INV-EX-7: fork leaves no exclusive entry in the child, and equal values")
    func forkRestores() throws {
        let f = try fixture()
        for i in 0..<4 { try grant(f, i) }
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        #expect(kind(f, 0) == nil)
        f.checkInvariants()
        try f.expect(0..<8, 1, cpu: cpu)
        try f.expect(0..<8, 1)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.finish()
    }

    @Test(
        "INV-EX-9, INV-EX-14: data survives protect, move and swap; unmap frees once",
        arguments: [KernelProfile.linux6_12, .next])
    func survives(_ profile: KernelProfile) throws {
        let f = try fixture(profile)
        for i in 0..<8 { try grant(f, i) }
        try f.space.protect(f.pages(0..<2), .read)
        try f.expect(0..<2, 1)
        #expect(throws: AccessFault.segmentationFault) { try f.write(0..<1, 2) }
        try f.space.protect(f.pages(0..<2), .readWrite)
        try f.space.unmap(f.pages(7..<8))
        let destination = PageNumber(0x3000000)
        try f.space.remap(f.pages(0..<7), to: destination)
        f.checkInvariants()
        try f.expect(0..<7, 1, at: destination)
        f.checkInvariants()
        f.finish()
    }

    @Test("INV-EX-10: reclaim finds an exclusive page by its reverse map")
    func reclaimFindsIt() throws {
        let f = try fixture()
        let frame = try #require(f.space.leaf(f.pages(1..<2).lowerBound)).0.frame
        try grant(f, 1)
        f.machine.frames.get(frame)
        f.machine.reclaim(frame)
        #expect(kind(f, 1) == .swap)
        f.checkInvariants()
        try f.expect(0..<8, 1)
        f.finish()
    }

    @Test("INV-EX-13: the maker does not hear its own event, everybody else does")
    func ownerFilter() throws {
        let f = try fixture()
        let a = Witness(1)
        let b = Witness(2)
        let all = PageNumber(0)..<Geometry.endPage
        let ia = try f.space.notifiers.insert(a, over: all)
        let ib = try f.space.notifiers.insert(b, over: all)
        let page = f.pages(0..<1).lowerBound
        try a.take(page, f.space, ia)
        #expect(a.events == [] && a.holds(page))
        #expect(b.events == [.exclusive])
        try b.take(page, f.space, ib)
        // The restore, which has no owner, and the make of the other.
        #expect(a.events == [.exclusive, .exclusive])
        #expect(!a.holds(page) && b.holds(page))
        f.space.notifiers.remove(ia)
        f.space.notifiers.remove(ib)
        f.checkInvariants()
        f.finish()
    }

    @Test("INV-EX-6: CPU and device atomics on one word are serialised")
    func atomicsFromBothSides() throws {
        let f = try fixture(pages: 2)
        let witnesses = [Witness(1), Witness(2)]
        let all = PageNumber(0)..<Geometry.endPage
        let intervals = try witnesses.map { try f.space.notifiers.insert($0, over: all) }
        let page = f.pages(0..<1).lowerBound
        let count = 400
        try f.cpu.store(0, at: page.address)
        let threads = zip(witnesses, intervals).map { witness, interval in
            SyncThread.spawn(name: "device") {
                for _ in 0..<count {
                    while true {
                        try! witness.take(page, f.space, interval)
                        let frame = f.space.leaf(page)!.0.frame
                        if witness.add(page, frame, f.space) { break }
                    }
                }
            }
        }
        for _ in 0..<count { _ = try f.cpu.fetchAdd(1, at: page.address) }
        for thread in threads { thread.join() }
        #expect(try f.cpu.load(page.address) == UInt64(3 * count))
        for interval in intervals { f.space.notifiers.remove(interval) }
        f.checkInvariants()
        f.finish()
    }

    @Test func activityCountsHandOvers() throws {
        let f = try fixture()
        let activity = ExclusiveActivity(handOverLimit: 4, windowNanoseconds: .max / 4)
        f.space.exclusiveObserver = activity
        let page = f.pages(0..<1).lowerBound
        #expect(activity.suggestion(for: page) == .exclusive)
        for _ in 0..<3 {
            try grant(f, 0)
            try f.expect(0..<1, 1)
        }
        #expect(activity.record(of: page).grants == 3)
        #expect(activity.record(of: page).restores == 3)
        #expect(activity.suggestion(for: page) == .migrate)
        f.finish()
    }

    @Test("6.12: the head of a folio mapped by single entries takes all its pages along, a tail is refused")
    func folioConversion() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<512), protection: .readWrite, kind: .anonymous(huge: true))
        try f.write(0..<512, 1)
        f.space.lockForReading()
        let batch = try f.space.makeExclusiveBatch(f.pages(0..<2))
        #expect(batch.reached == 2)
        #expect(batch.granted[0] != .none && batch.granted[1] == .none)
        batch.release()
        f.space.unlockForReading()
        #expect((0..<512).allSatisfy { kind(f, $0) == .deviceExclusive })
        f.checkInvariants()
        try f.expect(0..<512, 1)
        f.checkInvariants()
        f.finish()
    }
}
