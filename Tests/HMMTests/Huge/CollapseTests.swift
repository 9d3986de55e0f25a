import Synchronization
import Testing

@testable import HMM

/// MADV_COLLAPSE: what it answers, what it keeps, and what it leaves when it fails.
@Suite("Collapse")
struct CollapseTests {
    static func fixture(_ count: Int = 1024) throws -> Fixture {
        let f = try Fixture()
        try f.space.map(f.pages(0..<count), protection: .readWrite, kind: .anonymous())
        return f
    }

    static func isHuge(_ f: Fixture, _ i: Int, in space: AddressSpace? = nil) -> Bool {
        (space ?? f.space).leaf(Fixture.base.advanced(by: i))?.0.isHugeLeaf == true
    }

    static func collapse(_ f: Fixture, _ range: Range<Int>) throws(HMMError) {
        try f.space.advise(f.pages(range), .collapse)
    }

    @Test func singlePagesBecomeOneHugePage() throws {
        let f = try Self.fixture()
        try f.write(100..<200, 3)
        try f.expect(200..<300, nil)
        try Self.collapse(f, 0..<512)
        #expect(Self.isHuge(f, 0) && !Self.isHuge(f, 512))
        #expect(f.machine.frames.system.usedFrames == 512)
        f.checkInvariants()
        try f.expect(0..<100, nil)
        try f.expect(100..<200, 3)
        try f.expect(200..<512, nil)
        try f.write(0..<512, 4)
        try Self.collapse(f, 0..<512)
        try f.expect(0..<512, 4)
        f.checkInvariants()
        f.finish()
    }

    @Test func rangesAreRoundedInwards() throws {
        let f = try Self.fixture()
        try f.write(0..<1024, 3)
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 10..<20) }
        // The bounds meet: nothing to do is no failure.
        try Self.collapse(f, 100..<612)
        try Self.collapse(f, 512..<600)
        #expect(!Self.isHuge(f, 0) && !Self.isHuge(f, 512))
        try Self.collapse(f, 1..<1024)
        #expect(!Self.isHuge(f, 0) && Self.isHuge(f, 512))
        f.checkInvariants()
        try f.expect(0..<1024, 3)
        f.finish()
    }

    @Test func mappingsThatMayNotHaveHugePagesAreRefused() throws {
        let f = try Self.fixture()
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 0..<512) }
        try f.write(0..<1, 3)
        try f.write(512..<513, 3)
        // Both windows are done; what follows is not mapped.
        #expect(throws: HMMError(.outOfMemory)) { try Self.collapse(f, 0..<2048) }
        #expect(Self.isHuge(f, 0) && Self.isHuge(f, 512))
        try f.space.advise(f.pages(0..<1024), .nohugepage)
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 0..<512) }
        try f.space.map(f.pages(4096..<4700), protection: .readWrite, kind: .sharedAnonymous)
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 4096..<4608) }
        f.checkInvariants()
        f.finish()
    }

    @Test func windowsWithoutAWritablePageAreRefused() throws {
        let f = try Self.fixture()
        try f.write(0..<1, 3)
        try f.expect(512..<1024, nil)
        // The first window is collapsed all the same.
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 0..<1024) }
        #expect(Self.isHuge(f, 0) && !Self.isHuge(f, 512))
        f.checkInvariants()
        try f.space.protect(f.pages(512..<1024), .read)
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 512..<1024) }
        f.checkInvariants()
        f.finish()
    }

    @Test func swappedPagesComeBack() throws {
        let f = try Self.fixture()
        try f.write(0..<512, 3)
        try f.space.advise(f.pages(0..<500), .pageout)
        try Self.collapse(f, 0..<512)
        #expect(Self.isHuge(f, 0))
        #expect(f.machine.swap.usedSlots == 0)
        f.checkInvariants()
        try f.expect(0..<512, 3)
        try f.space.advise(f.pages(0..<512), .pageout)
        // Nothing of it is present and writable.
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 0..<512) }
        try f.expect(0..<512, 3)
        f.checkInvariants()
        f.finish()
    }

    @Test func pagesThatSomebodyUsesStopTheirWindow() throws {
        let f = try Self.fixture()
        try f.write(0..<1024, 3)
        f.space.lockForReading()
        let frame = try f.space.reference(Fixture.base.advanced(by: 9), [.pin])
        f.space.unlockForReading()
        #expect(throws: HMMError(.tryAgain)) { try Self.collapse(f, 0..<1024) }
        #expect(!Self.isHuge(f, 0) && Self.isHuge(f, 512))
        f.space.release(frame, [.pin])
        f.checkInvariants()
        try Self.collapse(f, 0..<1024)
        #expect(Self.isHuge(f, 0))
        try f.expect(0..<1024, 3)
        f.checkInvariants()
        f.finish()
    }

    @Test func sharedPagesAreCopied() throws {
        let f = try Self.fixture()
        try f.write(0..<512, 3)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        try f.write(7..<8, 4)
        try Self.collapse(f, 0..<512)
        #expect(Self.isHuge(f, 0) && !Self.isHuge(f, 0, in: child))
        f.checkInvariants()
        try f.write(0..<512, 5)
        try f.expect(0..<512, 3, cpu: cpu)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        f.finish()
    }

    @Test func aHugePageInPiecesIsCollapsedAgain() throws {
        let f = try Self.fixture()
        try f.space.advise(f.pages(0..<1024), .hugepage)
        try f.write(0..<512, 3)
        try f.space.protect(f.pages(10..<20), .read)
        try f.space.protect(f.pages(10..<20), .readWrite)
        #expect(!Self.isHuge(f, 0))
        try Self.collapse(f, 0..<512)
        #expect(Self.isHuge(f, 0))
        #expect(f.machine.frames.system.usedFrames == 512)
        f.checkInvariants()
        try f.expect(0..<512, 3)
        f.finish()
    }

    @Test func nothingIsLostWhereverMemoryRunsOut() throws {
        var n = 1
        while true {
            let f = try Self.fixture()
            try f.write(0..<512, 3)
            try f.space.advise(f.pages(0..<6), .pageout)
            f.machine.faultInjector.failAllocation(n)
            var failure: HMMError?
            do throws(HMMError) { try Self.collapse(f, 0..<512) } catch { failure = error }
            let failed = f.machine.faultInjector.disarm()
            // The huge page comes first; a page that cannot be fetched is no memory problem of the caller's.
            #expect(failed == 0 ? failure == nil : failure == HMMError(n == 1 ? .outOfMemory : .invalidArgument))
            f.checkInvariants()
            try f.expect(0..<512, 3)
            f.checkInvariants()
            f.finish()
            if failed == 0 { break }
            n += 1
        }
        #expect(n == 8)
    }
}
