import Synchronization
import Testing

@testable import HMM

/// What is collected, and what is passed over. Each test lays pages out, one letter a page, and says what a migration
/// leaves of it.
@Suite("Migration: selection")
struct MigrationSelectionTests {
    @Test("INV-MG-10: only what is selected is collected, and only of the sources", arguments: [
        DeviceMemoryKind.private, .coherent,
    ])
    func onlyTheSelectedIsCollected(kind: DeviceMemoryKind) throws {
        let f = try MigrationFixture(kind)
        try f.map(0..<8)
        try f.base.write(0..<6, 1)
        try f.send(0..<2)
        try f.send(2..<4, to: f.second)
        #expect(f.layout(0..<8) == "1122ss..")
        let collected = try f.withMigration(0..<8, f.fromFirst) { m in
            (0..<8).map { m[$0].isMigrating && m[$0].hasFrame }
        }
        #expect(collected == [true, true, false, false, false, false, false, false])
        let system = try f.withMigration(0..<8, f.toFirst) { m in (0..<8).map { m[$0].isMigrating } }
        #expect(system == [false, false, false, false, true, true, true, true])
        #expect(f.layout(0..<8) == "1122ss..")
        f.finish()
    }

    @Test func swappedAndExclusivePagesArePassedOver() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<4, 1)
        try f.space.advise(f.pages(0..<1), .pageout)
        f.space.lockForReading()
        try f.space.makeExclusive(f.pages(1..<2).lowerBound, owner: f.first.owner).release()
        f.space.unlockForReading()
        #expect(f.layout(0..<4) == "Sxss")
        #expect(try f.send(0..<4).moved == 2)
        #expect(f.layout(0..<4) == "Sx11")
        f.checkInvariants()
        // With a fault first, they go too.
        #expect(try f.send(0..<4, fault: [.fault, .write]).moved == 2)
        #expect(f.layout(0..<4) == "1111")
        try f.base.expect(0..<4, 1)
        f.finish()
    }

    @Test func filePagesNeverReachADeviceAndTheirCopiesDo() throws {
        let f = try MigrationFixture()
        try moveFilePages(f)
        f.finish()
    }

    /// The file is gone at the end.
    private func moveFilePages(_ f: MigrationFixture) throws {
        let file = try f.machine.makeFile(pageCount: 4)
        try f.space.map(f.pages(0..<4), protection: .readWrite, kind: .sharedFile(file))
        try f.base.write(0..<4, 1)
        #expect(try f.send(0..<4).moved == 0)
        let copies = f.pages(8..<12)
        try f.space.map(copies, protection: .readWrite, kind: .privateFile(file))
        _ = try f.base.cpu.load(copies.lowerBound.address)
        try f.base.cpu.store(5, at: copies.lowerBound.advanced(by: 1).address)
        let sent = try f.send(8..<12)
        #expect(sent.moved == 1 && sent.filled == 0)
        #expect(f.layout(8..<12) == "s1ss")
        f.checkInvariants()
        #expect(try f.base.cpu.load(copies.lowerBound.advanced(by: 1).address) == 5)
        try f.space.unmap(f.pages(0..<12))
    }

    @Test("INV-MG-7: pinned pages stay, and the pin holder goes on seeing the page that is mapped", arguments: [
        false, true,
    ])
    func pinnedPagesStay(isShared: Bool) throws {
        let f = try MigrationFixture()
        try f.map(0..<3)
        try f.base.write(0..<3, 1)
        f.space.lockForReading()
        let pinned = try f.space.reference(f.pages(1..<2).lowerBound, [.pin, .write])
        f.space.unlockForReading()
        let child = isShared ? try f.space.fork() : nil
        #expect(try f.send(0..<3).moved == 2)
        #expect(f.layout(0..<3) == "1s1")
        #expect(f.entry(1)?.frame == pinned)
        try f.base.write(1..<2, 2)
        #expect(f.frames.words(of: pinned)[3].load(ordering: .relaxed) == 2 &+ f.pages(1..<2).lowerBound.raw)
        f.space.release(pinned, [.pin, .write])
        child?.exit()
        f.finish()
    }

    @Test func aPageInTheSwapCacheGoesOnceNobodyNeedsItsSlot() throws {
        let f = try MigrationFixture()
        try f.map(0..<2)
        try f.base.write(0..<2, 1)
        try f.space.advise(f.pages(0..<2), .pageout)
        // The child's entry keeps the slot of page 0 in use.
        let child = try f.space.fork()
        try f.base.expect(0..<1, 1)
        try child.unmap(f.pages(1..<2))
        try f.base.expect(1..<2, 1)
        _ = try f.send(0..<2)
        f.checkInvariants()
        let cpu = child.makeCPU()
        try f.base.expect(0..<1, 1, cpu: cpu)
        try f.base.expect(0..<2, 1)
        child.removeCPU(cpu)
        child.exit()
        f.finish()
    }

    @Test("INV-MG-6: dirty, soft-dirty and write protection survive a round trip")
    func trackingSurvives() throws {
        let f = try MigrationFixture()
        try f.map(0..<2)
        try f.base.write(0..<2, 1)
        let before = f.entry(0)!
        #expect(before.isSoftDirty)
        try f.send(0..<2)
        #expect(f.entry(0)!.isSoftDirty)
        #expect(f.frames.hasFlags(f.entry(0)!.frame, FrameFlags.dirty))
        try f.fetch(0..<2)
        #expect(f.entry(0)!.isSoftDirty)
        #expect(f.entry(0)!.isWritable)
        #expect(f.frames.hasFlags(f.entry(0)!.frame, FrameFlags.dirty))
        f.finish()
    }

    @Test func requestsAreValidated() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<4, 1)
        let frame = f.entry(0)!.frame
        func error(_ range: Range<Int>, _ change: (inout MigrationRequest) -> Void = { _ in }) -> HMMError.Code? {
            var request = f.toFirst
            change(&request)
            do throws(HMMError) {
                try f.withMigration(range, request) { _ in }
                return nil
            } catch {
                return error.code
            }
        }
        #expect(error(0..<4) == nil)
        #expect(error(2..<2) == .invalidArgument)
        #expect(error(8..<9) == .invalidArgument)
        #expect(error(2..<5) == .outOfRange)
        #expect(error(0..<1) { $0.faultFrame = frame } == .invalidArgument)
        f.finish()
    }
}
