import Synchronization
import Testing

@testable import HMM

/// Device memory that fills up, is given back, or goes away.
@Suite("Device memory")
struct EvictionTests {
    @Test("a full device gives up what it did not use for longest", arguments: [DeviceMemoryKind.private, .coherent])
    func leastRecentlyUsedGoes(kind: DeviceMemoryKind) throws {
        let f = try MigrationFixture(kind, devicePages: 8)
        try f.map(0..<12)
        try f.base.write(0..<12, 1)
        try f.send(0..<8)
        // Pages 0 and 1 came first, but are used.
        f.first.memory.noteUse(of: f.entry(0)!.frame)
        f.first.memory.noteUse(of: f.entry(1)!.frame)
        #expect(f.machine.evictLeastRecentlyUsed(of: f.first.memory, count: 3) == 3)
        #expect(f.layout(0..<8) == "11sss111")
        #expect(try f.send(8..<12, evicting: true).moved == 4)
        #expect(f.layout(8..<12) == "1111")
        #expect(f.first.memory.usedFrames <= 8)
        f.checkInvariants()
        try f.base.expect(0..<12, 1)
        f.finish()
    }

    @Test func aRangeLargerThanTheDevicePassesThroughIt() throws {
        let f = try MigrationFixture(devicePages: 64)
        try f.map(0..<1000)
        try f.base.write(0..<1000, 1)
        for first in stride(from: 0, to: 1000, by: 50) {
            #expect(try f.send(first..<first + 50, evicting: true).moved == 50)
            #expect(f.layout(first..<first + 50).allSatisfy { $0 == "1" })
        }
        f.checkInvariants()
        try f.base.expect(0..<1000, 1)
        f.finish()
    }

    @Test("told not to, a full device keeps what it has")
    func fullDevicesMayKeepTheirPages() throws {
        let f = try MigrationFixture(devicePages: 4)
        try f.map(0..<8)
        try f.base.write(0..<8, 1)
        #expect(try f.send(0..<8, evicting: false).withoutPlace == 4)
        #expect(f.layout(0..<8) == "1111ssss")
        f.finish()
    }

    @Test("all pages of all processes go home", arguments: [DeviceMemoryKind.private, .coherent])
    func everythingIsEvicted(kind: DeviceMemoryKind) throws {
        let f = try MigrationFixture(kind)
        try f.map(0..<600, huge: true)
        try f.base.write(0..<600, 1)
        try f.send(0..<600)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        try f.base.write(5..<9, 2, cpu: cpu)
        try f.send(520..<530)
        #expect(f.machine.evictAll(of: f.first.memory) > 0)
        #expect(f.first.memory.usedFrames == 0)
        f.checkInvariants()
        try f.base.expect(0..<600, 1)
        try f.base.expect(5..<9, 2, cpu: cpu)
        try f.base.expect(9..<600, 1, cpu: cpu)
        child.removeCPU(cpu)
        child.exit()
        f.finish()
    }

    @Test("INV-MG-3: the end of each life is told once")
    func freedOnce() throws {
        let f = try MigrationFixture()
        try f.map(0..<32)
        try f.base.write(0..<32, 1)
        try f.send(0..<32)
        try f.fetch(0..<8)
        try f.space.advise(f.pages(8..<16), .dontneed)
        try f.space.unmap(f.pages(16..<20))
        let child = try f.space.fork()
        try f.base.expect(20..<22, 1)
        child.exit()
        _ = f.machine.evictAll(of: f.first.memory)
        let counts = f.first.memory.counts
        #expect(counts.allocations == counts.releases && f.first.freed.count == Int(counts.releases))
        f.finish()
    }

    @Test func releaseGivesChunksBackAndTheDeviceGoesOn() throws {
        let f = try MigrationFixture()
        try f.map(0..<100)
        try f.base.write(0..<100, 1)
        try f.send(0..<100)
        try f.machine.release(f.first.memory)
        #expect(f.first.memory.chunkRanges.isEmpty)
        #expect(f.layout(0..<100).allSatisfy { $0 == "s" })
        try f.base.expect(0..<100, 1)
        #expect(try f.send(0..<100).moved == 100)
        f.finish()
    }

    @Test func aRemovedDeviceHandsOutNothing() throws {
        let f = try MigrationFixture()
        try f.map(0..<10)
        try f.base.write(0..<10, 1)
        try f.send(0..<10)
        try f.machine.remove(f.first.memory)
        #expect(f.first.memory.allocate() == nil)
        #expect(try f.send(0..<10).withoutPlace == 10)
        try f.base.expect(0..<10, 1)
        f.finish()
    }

    @Test("R11: a device that is removed while a migration fills it")
    func removalDuringMigration() throws {
        let f = try MigrationFixture()
        try f.map(0..<10)
        try f.base.write(0..<10, 1)
        let (machine, memory) = (f.machine, f.first.memory)
        let remover = try f.withMigration(0..<10, f.toFirst) { m in
            m.copyToDevice(memory)
            let remover = SyncThread.spawn(name: "remove") { try? machine.remove(memory) }
            while memory.allocate().map({ memory.giveBack($0) }) != nil { SyncThread.yield() }
            m.commit()
            return remover
        }
        remover.join()
        #expect(memory.usedFrames == 0 && memory.chunkRanges.isEmpty)
        #expect(f.layout(0..<10).allSatisfy { $0 == "s" })
        try f.base.expect(0..<10, 1)
        f.finish()
    }

    @Test func pagesThatOthersHoldMakeAReleaseFailAndStay() throws {
        let f = try MigrationFixture(.coherent)
        try f.map(0..<10)
        try f.base.write(0..<10, 1)
        try f.send(0..<10)
        f.space.lockForReading()
        let pinned = try f.space.reference(f.pages(4..<5).lowerBound, [.pin])
        f.space.unlockForReading()
        #expect(throws: HMMError(.busy)) {
            try f.machine.release(f.first.memory, patienceNanoseconds: 1_000_000)
        }
        #expect(f.layout(0..<10) == "ssss1sssss")
        f.checkInvariants()
        f.space.release(pinned, [.pin])
        try f.machine.release(f.first.memory)
        try f.base.expect(0..<10, 1)
        f.finish()
    }

    @Test func exitFreesDevicePagesWithoutCopying() throws {
        let f = try MigrationFixture()
        try f.map(0..<10)
        try f.base.write(0..<10, 1)
        let child = try f.space.fork()
        try f.send(0..<10)
        let copied = f.machine.statistics.bytesCopied.count
        child.exit()
        f.finish()
        #expect(f.machine.statistics.bytesCopied.count == copied)
        #expect(f.first.freed.count == 10)
    }
}
