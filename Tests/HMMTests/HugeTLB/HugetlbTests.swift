import Synchronization
import Testing

@testable import HMM

/// Hugetlb memory: what the pool promises and hands out, and what mappings of its pages do.
@Suite("hugetlb")
struct HugetlbTests {
    static func fixture(_ pages: Int = 1024, shared: Bool = false, pool: Int = 4) throws -> Fixture {
        let f = try Fixture { $0.hugetlbPages = pool }
        try f.space.map(f.pages(0..<pages), protection: .readWrite, kind: .hugetlb(shared: shared))
        return f
    }

    static func counts(_ f: Fixture) -> [Int] {
        let counts = f.machine.frames.hugetlb.counts
        return [counts.free, counts.reserved]
    }

    static func entry(_ f: Fixture, _ i: Int, in space: AddressSpace? = nil) -> PageTableEntry {
        (space ?? f.space).leaf(Fixture.base.advanced(by: i))?.0 ?? .empty
    }

    static func finish(_ f: Fixture) {
        let total = f.machine.configuration.hugetlbPages
        f.finish()
        #expect(counts(f) == [total, 0])
    }

    @Test func theFirstTouchMapsTheWholePage() throws {
        let f = try Self.fixture()
        #expect(Self.counts(f) == [4, 2])
        try f.expect(7..<8, nil)
        #expect(Self.entry(f, 500).isHugeLeaf && !Self.entry(f, 500).isWritable)
        #expect(Self.counts(f) == [3, 1])
        f.checkInvariants()
        try f.write(500..<530, 5)
        #expect(Self.entry(f, 0).isWritable && Self.entry(f, 1000).isWritable)
        #expect(Self.counts(f) == [2, 0])
        try f.expect(0..<500, nil)
        try f.expect(500..<530, 5)
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func mappingsThatThePoolCannotServeAreRefused() throws {
        let f = try Self.fixture(3 * 512)
        #expect(throws: HMMError(.outOfMemory)) {
            try f.space.map(f.pages(4096..<4096 + 1024), protection: .read, kind: .hugetlb())
        }
        try f.space.map(f.pages(4096..<4096 + 512), protection: .read, kind: .hugetlb())
        #expect(Self.counts(f) == [4, 4])
        #expect(throws: HMMError(.invalidArgument)) {
            try f.space.map(f.pages(8200..<8200 + 512), protection: .read, kind: .hugetlb())
        }
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func rangesThatCutAPageAreRefused() throws {
        let f = try Self.fixture()
        try f.write(0..<1024, 5)
        #expect(throws: HMMError(.invalidArgument)) { try f.space.unmap(f.pages(0..<100)) }
        #expect(throws: HMMError(.invalidArgument)) { try f.space.protect(f.pages(100..<512), .read) }
        #expect(throws: HMMError(.invalidArgument)) { try f.space.advise(f.pages(3..<512), .dontneed) }
        #expect(throws: HMMError(.invalidArgument)) { try f.space.advise(f.pages(0..<512), .pageout) }
        #expect(throws: HMMError(.invalidArgument)) { try f.space.advise(f.pages(0..<512), .collapse) }
        #expect(throws: HMMError(.invalidArgument)) { try f.space.remap(f.pages(0..<100), to: PageNumber(0x2000000)) }
        // The end is rounded down.
        try f.space.advise(f.pages(0..<700), .dontneed)
        try f.expect(0..<512, nil)
        try f.expect(512..<1024, 5)
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func unmappedAndForgottenPagesGoBack() throws {
        let f = try Self.fixture()
        try f.write(0..<1024, 5)
        try f.space.advise(f.pages(0..<512), .dontneed)
        #expect(Self.counts(f) == [3, 1])
        f.checkInvariants()
        try f.space.unmap(f.pages(0..<512))
        #expect(Self.counts(f) == [3, 0])
        f.checkInvariants()
        try f.expect(512..<1024, 5)
        Self.finish(f)
    }

    @Test func forkSharesUntilSomebodyWrites() throws {
        let f = try Self.fixture()
        try f.write(0..<1024, 5)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        #expect(!Self.entry(f, 0).isWritable)
        f.checkInvariants()
        try f.write(3..<4, 6)
        try f.expect(0..<512, 5, cpu: cpu)
        f.checkInvariants()
        try f.write(512..<513, 7, cpu: cpu)
        try f.expect(512..<1024, 5)
        #expect(Self.counts(f) == [0, 0])
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        try f.write(512..<513, 8)
        Self.finish(f)
    }

    /// The owner was promised its pages; a child that would need one more loses what it shares.
    @Test func anExhaustedPoolTakesPagesFromTheChild() throws {
        let f = try Self.fixture(1024, pool: 2)
        try f.write(0..<1024, 5)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        #expect(throws: AccessFault.busError) { try f.write(0..<1, 6, cpu: cpu) }
        try f.expect(0..<512, 5, cpu: cpu)
        f.checkInvariants()
        try f.write(0..<512, 6)
        try f.expect(0..<512, 6)
        f.checkInvariants()
        // Its data is gone, so zeros would be a lie.
        #expect(throws: AccessFault.busError) { try f.expect(0..<1, nil, cpu: cpu) }
        try f.expect(512..<1024, 5, cpu: cpu)
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func aChildThatOutlivesItsParentKeepsItsPages() throws {
        let f = try Self.fixture()
        try f.write(0..<1024, 5)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        f.space.removeCPU(f.cpu)
        f.space.exit()
        f.checkInvariants()
        #expect(Self.counts(f) == [2, 0])
        try f.expect(0..<1024, 5, cpu: cpu)
        try f.write(0..<1024, 6, cpu: cpu)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        #expect(Self.counts(f) == [4, 0])
    }

    @Test func aPinnedPageIsCopiedForTheChild() throws {
        let f = try Self.fixture(512)
        try f.write(0..<512, 5)
        f.space.lockForReading()
        let frame = try f.space.reference(Fixture.base.advanced(by: 9), [.pin, .write])
        f.space.unlockForReading()
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        f.checkInvariants()
        #expect(Self.entry(f, 0).isWritable)
        try f.write(9..<10, 6)
        try f.expect(0..<512, 5, cpu: cpu)
        f.space.release(frame, [.pin, .write])
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func protectionOfWholePages() throws {
        let f = try Self.fixture()
        try f.write(0..<1024, 5)
        try f.space.protect(f.pages(0..<512), .read)
        #expect(throws: AccessFault.segmentationFault) { try f.write(0..<1, 6) }
        try f.expect(0..<512, 5)
        f.checkInvariants()
        try f.space.protect(f.pages(0..<512), [])
        #expect(throws: AccessFault.segmentationFault) { try f.expect(0..<1, 6) }
        try f.space.protect(f.pages(0..<512), .readWrite)
        #expect(!Self.entry(f, 0).isWritable)
        try f.write(0..<512, 6)
        try f.expect(0..<512, 6)
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func pagesMoveWithTheirPromises() throws {
        let f = try Self.fixture(3 * 512)
        try f.write(0..<512, 5)
        let target = PageNumber(0x2000000)
        try f.space.remap(f.pages(0..<1024), to: target)
        #expect(Self.counts(f) == [3, 2])
        f.checkInvariants()
        try f.expect(0..<512, 5, at: target)
        try f.cpu.store(1, at: target.advanced(by: 600).address)
        #expect(Self.counts(f) == [2, 1])
        f.checkInvariants()
        try f.space.unmap(target..<target.advanced(by: 1024))
        #expect(Self.counts(f) == [4, 1])
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func sharedMemoryIsShared() throws {
        let f = try Self.fixture(1024, shared: true)
        try f.expect(0..<4, nil)
        #expect(Self.entry(f, 0).isWritable)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        #expect(!Self.entry(f, 0, in: child).isHugeLeaf)
        try f.write(0..<512, 5, cpu: cpu)
        try f.expect(0..<512, 5)
        f.checkInvariants()
        try f.space.advise(f.pages(0..<512), .dontneed)
        try f.expect(0..<512, 5)
        #expect(Self.counts(f) == [3, 1])
        try f.space.advise(f.pages(0..<512), .remove)
        #expect(Self.counts(f) == [4, 1])
        f.checkInvariants()
        try f.expect(0..<512, nil, cpu: cpu)
        try f.write(512..<1024, 6)
        try f.space.advise(f.pages(600..<700), .remove)
        try f.expect(512..<600, 6)
        try f.expect(600..<700, nil)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        Self.finish(f)
    }

    @Test func faultsSurviveFailedAllocations() throws {
        for n in 1...8 {
            let f = try Self.fixture()
            f.machine.faultInjector.failAllocation(n)
            try? f.write(0..<1, 5)
            try? f.write(512..<513, 5)
            _ = f.machine.faultInjector.disarm()
            f.checkInvariants()
            try f.write(0..<1024, 5)
            try f.expect(0..<1024, 5)
            f.checkInvariants()
            Self.finish(f)
        }
    }

    @Test func forkSurvivesFailedAllocations() throws {
        var n = 1
        while true {
            let f = try Self.fixture()
            try f.write(0..<1024, 5)
            f.machine.faultInjector.failAllocation(n)
            let child = try? f.space.fork()
            let failed = f.machine.faultInjector.disarm()
            #expect((child == nil) == (failed > 0))
            f.checkInvariants()
            try f.expect(0..<1024, 5)
            child?.exit()
            try f.write(0..<1024, 6)
            f.checkInvariants()
            Self.finish(f)
            if failed == 0 { break }
            n += 1
        }
    }

    @Test func copiesSurviveFailedAllocations() throws {
        for n in 1...3 {
            let f = try Self.fixture(512)
            try f.write(0..<512, 5)
            let child = try f.space.fork()
            let cpu = child.makeCPU()
            f.machine.faultInjector.failAllocation(n)
            // The owner always gets its page, if need be by taking it away from the child.
            try f.write(0..<1, 6)
            let failed = f.machine.faultInjector.disarm()
            f.checkInvariants()
            try f.expect(1..<512, 5)
            if failed == 0 {
                try f.expect(0..<512, 5, cpu: cpu)
            } else {
                #expect(throws: AccessFault.busError) { try f.expect(0..<1, 5, cpu: cpu) }
            }
            child.removeCPU(cpu)
            child.exit()
            Self.finish(f)
        }
    }
}
