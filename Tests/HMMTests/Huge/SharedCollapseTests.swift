import Synchronization
import Testing

@testable import HMM

/// MADV_COLLAPSE of shared memory: the file gets a huge page, and whoever maps it finds it.
@Suite("Collapse of shared memory")
struct SharedCollapseTests {
    static func fixture() throws -> Fixture {
        let f = try Fixture()
        try f.space.map(f.pages(0..<1024), protection: .readWrite, kind: .sharedAnonymous)
        try f.write(100..<200, 3)
        return f
    }

    static func collapse(_ f: Fixture, _ range: Range<Int>) throws(HMMError) {
        try f.space.advise(f.pages(range), .collapse)
    }

    static func entry(_ f: Fixture, _ i: Int, in space: AddressSpace? = nil) -> PageTableEntry {
        (space ?? f.space).leaf(Fixture.base.advanced(by: i))?.0 ?? .empty
    }

    @Test func everybodyFindsTheHugePage() throws {
        let f = try Self.fixture()
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        try f.expect(90..<110, nil, cpu: child.makeCPU(), upTo: 100, then: 3)
        try f.space.advise(f.pages(150..<160), .pageout)
        try Self.collapse(f, 0..<512)
        #expect(Self.entry(f, 0).isHugeLeaf && Self.entry(f, 0).isWritable)
        #expect(f.machine.frames.system.usedFrames == 512)
        #expect(f.machine.swap.usedSlots == 0)
        f.checkInvariants()
        try f.expect(100..<200, 3, cpu: cpu)
        #expect(Self.entry(f, 0, in: child).isHugeLeaf)
        try f.write(0..<512, 4, cpu: cpu)
        try f.expect(0..<512, 4)
        f.checkInvariants()
        try Self.collapse(f, 0..<512)
        // A window without any page has nothing to collapse.
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 512..<1024) }
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        f.finish()
    }

    @Test func partsOfAHugePageAreRemovedAndUnmapped() throws {
        let f = try Self.fixture()
        try Self.collapse(f, 0..<512)
        try f.write(0..<512, 4)
        try f.space.advise(f.pages(10..<20), .dontneed)
        f.checkInvariants()
        try f.expect(0..<512, 4)
        try f.space.advise(f.pages(10..<20), .remove)
        f.checkInvariants()
        try f.expect(0..<10, 4)
        try f.expect(10..<20, nil)
        try f.expect(20..<512, 4)
        #expect(!Self.entry(f, 0).isHugeLeaf)
        try Self.collapse(f, 0..<512)
        try f.space.protect(f.pages(0..<256), .read)
        try f.expect(20..<512, 4)
        try f.write(256..<257, 5)
        f.checkInvariants()
        try f.space.unmap(f.pages(0..<100))
        try f.expect(300..<512, 4)
        f.checkInvariants()
        f.finish()
    }

    @Test func aWholeHugePageIsRemoved() throws {
        let f = try Self.fixture()
        try Self.collapse(f, 0..<512)
        try f.space.advise(f.pages(0..<512), .remove)
        #expect(f.machine.frames.system.usedFrames == 0)
        f.checkInvariants()
        try f.expect(0..<512, nil)
        f.checkInvariants()
        f.finish()
    }

    @Test func hugePagesOfFilesGoToSwap() throws {
        let f = try Self.fixture()
        try Self.collapse(f, 0..<512)
        try f.space.advise(f.pages(0..<512), .pageout)
        #expect(f.machine.swap.usedSlots == 512)
        f.checkInvariants()
        try f.expect(0..<100, nil)
        try f.expect(100..<200, 3)
        try Self.collapse(f, 0..<512)
        try f.expect(100..<200, 3)
        f.checkInvariants()
        f.finish()
    }

    @Test func privateMappingsCopyFromTheHugePage() throws {
        let f = try Fixture()
        let file = try f.machine.makeFile(pageCount: 512)
        try f.space.map(f.pages(0..<512), protection: .readWrite, kind: .sharedFile(file))
        try f.space.map(f.pages(1024..<1536), protection: .readWrite, kind: .privateFile(file))
        let other = Fixture.base.advanced(by: 1024)
        try f.write(0..<512, 3)
        try Self.collapse(f, 0..<512)
        try f.expect(0..<512, 3, at: other)
        #expect(Self.entry(f, 1024).isHugeLeaf && !Self.entry(f, 1024).isWritable)
        f.checkInvariants()
        try f.cpu.store(9, at: other.advanced(by: 7).address)
        #expect(!Self.entry(f, 1024).isHugeLeaf)
        try f.expect(0..<512, 3)
        try f.expect(8..<512, 3, at: other)
        // A copy stands in the way of mapping the whole.
        #expect(throws: HMMError(.invalidArgument)) { try Self.collapse(f, 1024..<1536) }
        f.checkInvariants()
        f.space.exit()
        f.checkInvariants()
        // The file is still there.
        #expect(f.machine.frames.system.usedFrames == 512)
    }

    @Test func pagesThatSomebodyUsesStopIt() throws {
        let f = try Self.fixture()
        f.space.lockForReading()
        let frame = try f.space.reference(Fixture.base.advanced(by: 120), [])
        f.space.unlockForReading()
        #expect(throws: HMMError(.tryAgain)) { try Self.collapse(f, 0..<512) }
        f.checkInvariantsBesides(frame)
        f.space.release(frame, [])
        f.checkInvariants()
        try f.expect(100..<200, 3)
        f.finish()
    }

    @Test func nothingIsLostWhereverMemoryRunsOut() throws {
        for n in 1...12 {
            let f = try Self.fixture()
            try f.space.advise(f.pages(100..<104), .pageout)
            f.machine.faultInjector.failAllocation(n)
            try? Self.collapse(f, 0..<512)
            _ = f.machine.faultInjector.disarm()
            f.checkInvariants()
            try f.expect(0..<100, nil)
            try f.expect(100..<200, 3)
            f.checkInvariants()
            f.finish()
        }
    }
}

extension Fixture {
    fileprivate func expect(
        _ range: Range<Int>, _ low: UInt64?, cpu: CPU, upTo border: Int, then high: UInt64
    ) throws {
        try expect(range.lowerBound..<border, low, cpu: cpu)
        try expect(border..<range.upperBound, high, cpu: cpu)
        cpu.space.removeCPU(cpu)
    }

    /// The books with one reference that they do not know.
    fileprivate func checkInvariantsBesides(_ frame: FrameNumber) {
        #expect(machine.checkInvariants().allSatisfy { $0.contains("\(frame)") })
    }
}
