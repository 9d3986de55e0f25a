import Synchronization
import Testing

@testable import HMM

/// One process on a machine of its own, and the shortest way to say what it does.
struct Fixture {
    let machine: Machine
    let space: AddressSpace
    let cpu: CPU
    static let base = PageNumber(0x1000000)

    init(_ configure: (inout MachineConfiguration) -> Void = { _ in }) throws {
        var configuration = MachineConfiguration()
        configure(&configuration)
        machine = try Machine(configuration)
        space = try machine.makeAddressSpace()
        cpu = space.makeCPU()
    }

    func pages(_ range: Range<Int>) -> PageRange {
        Self.base.advanced(by: range.lowerBound)..<Self.base.advanced(by: range.upperBound)
    }

    func write(_ range: Range<Int>, _ value: UInt64, cpu: CPU? = nil) throws {
        for page in pages(range) {
            try (cpu ?? self.cpu).withPage(page, for: .write) { $0[3].store(value &+ page.raw, ordering: .relaxed) }
        }
    }

    func expect(_ range: Range<Int>, _ value: UInt64?, cpu: CPU? = nil, at base: PageNumber = base) throws {
        for i in range {
            let page = base.advanced(by: i)
            let word = try (cpu ?? self.cpu).withPage(page, for: .read) { $0[3].load(ordering: .relaxed) }
            #expect(word == value.map { $0 &+ Self.base.raw &+ UInt64(i) } ?? 0, "page \(i)")
        }
    }

    func checkInvariants(_ location: SourceLocation = #_sourceLocation) {
        #expect(machine.checkInvariants() == [], sourceLocation: location)
    }

    /// Everything goes; nothing may be left over.
    func finish() {
        space.removeCPU(cpu)
        space.exit()
        checkInvariants()
        #expect(machine.frames.system.usedFrames == 0)
        #expect(machine.tables.usedTables == 0)
        #expect(machine.swap.usedSlots == 0)
        #expect(machine.anonVMAs.live == 0)
    }
}

@Suite("Address space")
struct AddressSpaceTests {
    @Test func anonymousMemoryReadsZeroAndKeepsWhatIsWritten() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<8), protection: .readWrite, kind: .anonymous())
        try f.expect(0..<8, nil)
        try f.write(2..<5, 7)
        try f.expect(2..<5, 7)
        try f.expect(5..<8, nil)
        f.checkInvariants()
        f.finish()
    }

    @Test func accessOutsideMappingsFaults() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<2), protection: .read, kind: .anonymous())
        #expect(throws: AccessFault.segmentationFault) { try f.write(0..<1, 1) }
        #expect(throws: AccessFault.segmentationFault) { try f.write(2..<3, 1) }
        f.finish()
    }

    @Test func forkSharesUntilSomebodyWrites() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<8), protection: .readWrite, kind: .anonymous())
        try f.write(0..<8, 1)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        f.checkInvariants()
        try f.write(0..<3, 2, cpu: cpu)
        try f.expect(0..<8, 1)
        try f.expect(0..<3, 2, cpu: cpu)
        try f.expect(3..<8, 1, cpu: cpu)
        try f.write(4..<6, 3)
        try f.expect(4..<6, 1, cpu: cpu)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        f.finish()
    }

    @Test func pagesGoToSwapAndComeBack() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<8), protection: .readWrite, kind: .anonymous())
        try f.write(0..<8, 1)
        try f.space.advise(f.pages(0..<8), .pageout)
        #expect(f.machine.swap.usedSlots == 8)
        #expect(f.machine.frames.system.usedFrames == 0)
        f.checkInvariants()
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        try f.expect(0..<4, 1, cpu: cpu)
        f.checkInvariants()
        try f.write(2..<6, 4)
        try f.expect(0..<8, 1, cpu: cpu)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.checkInvariants()
        f.finish()
    }

    @Test func sharedMemoryIsShared() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<40), protection: .readWrite, kind: .sharedAnonymous)
        try f.write(0..<40, 1)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        try f.write(0..<3, 2, cpu: cpu)
        try f.expect(0..<3, 2)
        f.checkInvariants()
        try f.space.advise(f.pages(0..<20), .pageout)
        try f.space.advise(f.pages(30..<40), .remove)
        try f.expect(30..<40, nil, cpu: cpu)
        try f.expect(3..<30, 1)
        f.checkInvariants()
        child.removeCPU(cpu)
        child.exit()
        f.finish()
    }

    @Test func protectAndMoveAndUnmap() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<16), protection: .readWrite, kind: .anonymous())
        try f.write(0..<16, 1)
        try f.space.protect(f.pages(4..<8), .read)
        #expect(throws: AccessFault.segmentationFault) { try f.write(4..<5, 1) }
        #expect(throws: HMMError(.badAddress)) { try f.space.remap(f.pages(0..<16), to: PageNumber(0x2000000)) }
        try f.space.protect(f.pages(4..<8), .readWrite)
        #expect(f.space.vmas.all.count == 1)
        try f.space.remap(f.pages(0..<16), to: PageNumber(0x2000100))
        try f.expect(0..<16, 1, at: PageNumber(0x2000100))
        f.checkInvariants()
        let moved = PageNumber(0x2000100)
        try f.space.unmap(moved.advanced(by: 3)..<moved.advanced(by: 5))
        #expect(f.space.vmas.all.count == 2)
        f.checkInvariants()
        f.finish()
    }

    @Test func hugePagesFaultSplitAndCopy() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<1024), protection: .readWrite, kind: .anonymous(huge: true))
        try f.write(5..<6, 1)
        #expect(f.space.leaf(f.pages(0..<1).lowerBound)?.1 == .pmd)
        f.checkInvariants()
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        f.checkInvariants()
        try f.write(6..<7, 2, cpu: cpu)
        f.checkInvariants()
        try f.expect(5..<6, 1, cpu: cpu)
        try f.expect(6..<7, nil)
        child.removeCPU(cpu)
        child.exit()
        try f.space.advise(f.pages(100..<200), .dontneed)
        try f.expect(5..<6, 1)
        try f.expect(512..<1024, nil)
        try f.write(600..<601, 3)
        f.checkInvariants()
        f.finish()
    }
}
