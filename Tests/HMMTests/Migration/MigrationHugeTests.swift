import Synchronization
import Testing

@testable import HMM

/// 2 MiB at once, or in pieces.
@Suite("Migration: huge pages")
struct MigrationHugeTests {
    private func isHuge(_ f: MigrationFixture, _ index: Int) -> Bool {
        f.space.leaf(f.pages(index..<index + 1).lowerBound)?.1 == .pmd
    }

    @Test("INV-MG-8: a huge page moves as one, there and back", arguments: [DeviceMemoryKind.private, .coherent])
    func hugePagesMoveAsOne(kind: DeviceMemoryKind) throws {
        let f = try MigrationFixture(kind)
        try f.map(0..<512, huge: true)
        try f.base.write(0..<512, 4)
        #expect(isHuge(f, 0))
        #expect(try f.send(0..<512).moved == 512)
        #expect(isHuge(f, 0) && f.layout(0..<1) == "1")
        f.checkInvariants()
        #expect(try f.fetch(0..<512).moved == 512)
        #expect(isHuge(f, 0) && f.layout(0..<1) == "s")
        try f.base.expect(0..<512, 4)
        f.finish()
    }

    @Test func aFaultBringsAHugePageHomeAsOne() throws {
        let f = try MigrationFixture()
        try f.map(0..<512, huge: true)
        try f.base.write(0..<512, 4)
        try f.send(0..<512)
        try f.base.expect(77..<78, 4)
        #expect(isHuge(f, 0) && f.layout(0..<1) == "s")
        try f.base.write(0..<512, 5)
        try f.base.expect(0..<512, 5)
        f.finish()
    }

    @Test("6.12 splits every huge page it meets, whatever is selected")
    func linuxSplitsWhatItMeets() throws {
        let f = try MigrationFixture(.private, .linux6_12)
        try f.map(0..<1024, huge: true)
        try f.base.write(0..<3, 4)
        try f.base.write(512..<515, 4)
        #expect(isHuge(f, 0) && isHuge(f, 512))
        #expect(try f.fetch(0..<1).moved == 0)
        #expect(f.layout(0..<5) == "ssszz")
        #expect(try f.send(513..<514).moved == 1)
        #expect(f.layout(512..<517) == "s1szz")
        try f.base.expect(0..<3, 4)
        try f.base.expect(512..<515, 4)
        try f.base.expect(600..<1024, nil)
        f.finish()
    }

    @Test("6.12 leaves what is large but mapped page by page", arguments: [KernelProfile.linux6_12, .next])
    func largeFoliosMappedByPages(profile: KernelProfile) throws {
        let f = try MigrationFixture(.private, profile)
        try f.map(0..<512, huge: true)
        try f.base.write(0..<512, 4)
        try f.space.unmap(f.pages(500..<512))
        #expect(!isHuge(f, 0))
        let sent = try f.send(0..<500)
        #expect(sent.moved == (profile.migrationSplitsHugeFolios ? 0 : 500))
        f.checkInvariants()
        try f.base.expect(0..<500, 4)
        f.finish()
    }

    @Test func aPartOfAHugePageMoves() throws {
        let f = try MigrationFixture()
        try f.map(0..<512, huge: true)
        try f.base.write(0..<512, 4)
        #expect(try f.send(10..<20).moved == 10)
        #expect(f.layout(8..<22) == "ss1111111111ss")
        f.checkInvariants()
        try f.base.expect(0..<512, 4)
        f.finish()
    }

    @Test func theSharedZerosAndUntouchedWindowsBecomeUnits() throws {
        let f = try MigrationFixture()
        try f.map(0..<1024, huge: true)
        try f.base.expect(0..<1, nil)
        #expect(f.entry(0)!.isSpecial && isHuge(f, 0))
        #expect(try f.send(0..<1024).filled == 1024)
        #expect(isHuge(f, 0) && isHuge(f, 512))
        #expect(f.layout(0..<1) == "1" && f.layout(512..<513) == "1")
        f.checkInvariants()
        try f.base.write(3..<5, 1)
        try f.base.expect(3..<5, 1)
        try f.base.expect(5..<1024, nil)
        f.finish()
    }

    /// Only one side could hold 2 MiB in one piece.
    @Test("INV-MG-8: a unit without a counterpart goes page by page", arguments: [true, false])
    func unitsWithoutCounterpart(isSharedByFork: Bool) throws {
        // Room for 512 pages, but not in one block.
        let f = try MigrationFixture(devicePages: 512 + 100)
        try f.map(0..<1024, huge: true)
        try f.base.write(0..<512, 4)
        try f.map(2048..<2060)
        try f.base.write(2048..<2058, 1)
        try f.send(2048..<2058)
        let child = isSharedByFork ? try f.space.fork() : nil
        #expect(f.first.memory.allocate(order: 9).map { f.first.memory.giveBack($0) } == nil)
        #expect(try f.send(0..<512).moved == 512)
        #expect(!isHuge(f, 0) && f.layout(0..<3) == "111")
        f.checkInvariants()
        try f.base.expect(0..<512, 4)
        child?.exit()
        f.finish()
    }

    @Test("INV-MG-14: a fault on a page of a unit that must be split keeps lock and reference with its page")
    func faultsOnUnitsWithoutHugeMemory() throws {
        let f = try MigrationFixture { $0.systemMemoryBytes = 8 << 20 }
        try f.map(0..<512, huge: true)
        try f.base.write(0..<512, 4)
        try f.send(0..<512)
        // No 2 MiB in one piece, and some single pages.
        var taken: [FrameNumber] = []
        while let head = f.frames.allocateFolio(order: 9) { taken.append(head) }
        f.frames.put(taken.removeLast())
        let single = f.frames.allocateFolio()!
        #expect(f.frames.allocateFolio(order: 9) == nil)
        try f.base.expect(300..<301, 4)
        #expect(f.layout(300..<301) == "s")
        f.frames.put(single)
        for head in taken { f.frames.put(head) }
        f.checkInvariants()
        try f.base.expect(0..<512, 4)
        f.finish()
    }

    @Test func hugePagesSharedByForkMoveForBoth() throws {
        let f = try MigrationFixture()
        try f.map(0..<512, huge: true)
        try f.base.write(0..<512, 4)
        let child = try f.space.fork()
        #expect(try f.send(0..<512).moved == 512)
        #expect(f.layout(0..<1, in: child) == "1")
        f.checkInvariants()
        let cpu = child.makeCPU()
        try f.base.write(5..<6, 6, cpu: cpu)
        try f.base.expect(0..<512, 4)
        try f.base.expect(0..<5, 4, cpu: cpu)
        child.removeCPU(cpu)
        child.exit()
        f.finish()
    }
}
