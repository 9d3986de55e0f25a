import Synchronization
import Testing

@testable import HMM

/// A large folio is split by hand, by MADV_PAGEOUT of a part, and with somebody in the way; bytes and counts are looked
/// at after each step.
@Suite("Folio split")
struct FolioSplitTests {
    static let pageCount = 512

    static func fixture(_ profile: KernelProfile = .linux6_12) throws -> Fixture {
        let f = try Fixture { $0.profile = profile }
        try f.space.map(f.pages(0..<1024), protection: .readWrite, kind: .anonymous(huge: true))
        return f
    }

    /// The frame mapped at page `i`, and the level of the entry.
    static func mapped(_ f: Fixture, _ i: Int, in space: AddressSpace? = nil) -> (FrameNumber, PageLevel) {
        let page = Fixture.base.advanced(by: i)
        let (entry, level) = (space ?? f.space).leaf(page)!
        return (level == .pmd ? entry.frame + i % 512 : entry.frame, level)
    }

    static func split(_ f: Fixture, _ head: FrameNumber, keeping kept: FrameNumber? = nil) -> Bool {
        let frames = f.machine.frames
        frames.get(head)
        frames.lockFolio(head)
        let isSplit = f.machine.splitFolio(head, keeping: kept)
        let mine = isSplit ? kept ?? head : head
        frames.unlockFolio(mine)
        frames.put(mine)
        return isSplit
    }

    @Test(arguments: [KernelProfile.linux6_12, .next])
    func bytesAndRightsSurvive(_ profile: KernelProfile) throws {
        let f = try Self.fixture(profile)
        try f.write(0..<300, 5)
        let (head, level) = Self.mapped(f, 0)
        #expect(level == .pmd)
        #expect(Self.split(f, head))
        f.checkInvariants()
        for i in 0..<Self.pageCount {
            let (frame, level) = Self.mapped(f, i)
            #expect(level == .pte)
            let isZero = frame == FrameTable.zeroFrame
            #expect(isZero == (i >= 300 && profile.splitMapsZeroPages))
            if !isZero { #expect(frame == head + i && !f.machine.frames.isLarge(frame)) }
        }
        #expect(f.machine.frames.system.usedFrames == (profile.splitMapsZeroPages ? 300 : 512))
        try f.expect(0..<300, 5)
        try f.expect(300..<512, nil)
        try f.write(0..<512, 9)
        try f.expect(0..<512, 9)
        f.checkInvariants()
        f.finish()
    }

    @Test(arguments: [0, 1, 77, 511])
    func lockAndReferenceStayWithTheNamedPage(_ kept: Int) throws {
        let f = try Self.fixture(.next)
        try f.write(0..<512, 5)
        let (head, _) = Self.mapped(f, 0)
        #expect(Self.split(f, head, keeping: head + kept))
        f.checkInvariants()
        try f.expect(0..<512, 5)
        f.finish()
    }

    @Test func aForeignReferenceMakesTheSplitFail() throws {
        let f = try Self.fixture()
        try f.write(0..<512, 5)
        let (head, _) = Self.mapped(f, 0)
        f.machine.frames.get(head)
        #expect(!Self.split(f, head))
        #expect(Self.mapped(f, 0).1 == .pmd)
        f.machine.frames.put(head)
        f.checkInvariants()
        #expect(Self.split(f, head))
        f.checkInvariants()
        f.finish()
    }

    @Test func aPinnedPageKeepsItsEntry() throws {
        let f = try Self.fixture()
        try f.write(0..<512, 5)
        f.space.lockForReading()
        let frame = try f.space.reference(Fixture.base.advanced(by: 9), [.pin, .write])
        f.space.unlockForReading()
        let head = f.machine.frames.head(of: frame)
        f.machine.frames.lockFolio(head)
        // The reverse-map walk itself, past the check that would refuse before.
        #expect(!f.machine.installMigrationEntries(head, splittingLeaves: true))
        f.machine.removeMigrationEntries(from: head, to: head)
        f.machine.frames.unlockFolio(head)
        f.checkInvariants()
        f.space.release(frame, [.pin, .write])
        try f.expect(0..<512, 5)
        f.checkInvariants()
        f.finish()
    }

    @Test func aSharedFolioIsSplitInBothProcesses() throws {
        let f = try Self.fixture()
        try f.write(0..<400, 5)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        let (head, _) = Self.mapped(f, 0)
        #expect(Self.mapped(f, 0, in: child) == (head, .pmd))
        #expect(Self.split(f, head))
        f.checkInvariants()
        try f.expect(0..<400, 5)
        try f.expect(400..<512, nil, cpu: cpu)
        try f.write(0..<512, 6, cpu: cpu)
        try f.expect(0..<400, 5)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        f.finish()
    }

    @Test func unmappedPartsAreFreed() throws {
        let f = try Self.fixture(.next)
        try f.write(0..<512, 5)
        try f.space.unmap(f.pages(100..<200))
        #expect(f.machine.frames.system.usedFrames == 512)
        let (head, _) = Self.mapped(f, 0)
        #expect(Self.split(f, head))
        #expect(f.machine.frames.system.usedFrames == 412)
        f.checkInvariants()
        try f.expect(200..<512, 5)
        f.finish()
    }

    @Test func wholeFoliosMigrateAndComeBack() throws {
        let f = try Self.fixture()
        try f.write(0..<512, 5)
        let frames = f.machine.frames
        let (head, _) = Self.mapped(f, 0)
        frames.get(head)
        frames.lockFolio(head)
        #expect(f.machine.installMigrationEntries(head))
        let pmd = f.space.tables.entry(Fixture.base, .pmd)!
        #expect(f.space.tables.read(pmd).softLeaf?.kind == .migration)
        f.machine.removeMigrationEntries(from: head, to: head)
        frames.unlockFolio(head)
        frames.put(head)
        #expect(Self.mapped(f, 0) == (head, .pmd))
        #expect(frames.isAnonExclusive(head))
        try f.expect(0..<512, 5)
        f.checkInvariants()
        f.finish()
    }

    @Test func aPartOfAHugePageGoesToSwap() throws {
        let f = try Self.fixture()
        try f.write(0..<300, 5)
        try f.space.advise(f.pages(10..<20), .pageout)
        #expect(f.machine.swap.usedSlots == 10)
        #expect(Self.mapped(f, 400).0 == FrameTable.zeroFrame)
        f.checkInvariants()
        try f.expect(0..<300, 5)
        try f.expect(300..<512, nil)
        f.checkInvariants()
        f.finish()
    }

    @Test func aWholeHugePageGoesToSwapAsOne() throws {
        let f = try Self.fixture()
        try f.write(0..<300, 5)
        try f.space.advise(f.pages(0..<512), .pageout)
        #expect(f.machine.swap.usedSlots == 512)
        #expect(f.machine.frames.system.usedFrames == 0)
        f.checkInvariants()
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        try f.expect(0..<300, 5, cpu: cpu)
        try f.expect(300..<512, nil)
        try f.write(0..<512, 6)
        try f.expect(0..<300, 5, cpu: cpu)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.finish()
    }

    @Test func scatteredSwapTakesThePagesOneByOne() throws {
        let f = try Fixture { $0.swapBytes = 600 * 4096 }
        try f.space.map(f.pages(0..<2048), protection: .readWrite, kind: .anonymous(huge: true))
        try f.write(0..<100, 5)
        try f.space.advise(f.pages(0..<100), .pageout)
        try f.write(512..<1024, 6)
        try f.space.advise(f.pages(512..<1024), .pageout)
        // 500 slots are left, in a row: too few for the whole.
        #expect(f.machine.swap.usedSlots == 600)
        f.checkInvariants()
        try f.expect(512..<1024, 6)
        f.checkInvariants()
        f.finish()
    }

    /// Nothing is lost at whichever allocation memory runs out; a split itself allocates nothing.
    @Test func pageoutSurvivesFailedAllocations() throws {
        for n in 1...4 {
            let f = try Self.fixture()
            try f.write(0..<300, 5)
            f.machine.faultInjector.failAllocation(n)
            try? f.space.advise(f.pages(0..<512), .pageout)
            _ = f.machine.faultInjector.disarm()
            f.checkInvariants()
            try f.expect(0..<300, 5)
            try f.expect(300..<512, nil)
            f.checkInvariants()
            f.finish()
        }
    }
}
