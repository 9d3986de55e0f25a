import Synchronization
import Testing

@testable import HMM

@Suite("Migration")
struct MigrationTests {
    @Test(arguments: [DeviceMemoryKind.private, .coherent], [KernelProfile.linux6_12, .next])
    func pagesMoveAndComeBack(kind: DeviceMemoryKind, profile: KernelProfile) throws {
        let f = try MigrationFixture(kind, profile)
        try f.map(0..<8)
        try f.base.write(0..<6, 7)
        let sent = try f.send(0..<8)
        #expect(sent.moved == 6 && sent.filled == 2)
        #expect(f.layout(0..<8) == "11111111")
        #expect(f.isWritable(0) && f.isWritable(7))
        f.checkInvariants()
        let fetched = try f.fetch(0..<8)
        #expect(fetched.moved == 8)
        #expect(f.layout(0..<8) == "ssssssss")
        try f.base.expect(0..<6, 7)
        try f.base.expect(6..<8, nil)
        #expect(f.machine.statistics.pagesToDevice.count == 8)
        #expect(f.machine.statistics.pagesToSystem.count == 8)
        #expect(f.machine.statistics.bytesCopied.count == 14 * 4096)
        f.finish()
    }

    @Test(arguments: [1, 16])
    func aFaultingCPUBringsItsPageHome(window: Int) throws {
        let f = try MigrationFixture(window: window)
        try f.map(0..<32)
        try f.base.write(0..<32, 3)
        try f.send(0..<32)
        try f.base.expect(5..<6, 3)
        let layout = f.layout(0..<32)
        #expect(layout.filter { $0 == "s" }.count == window)
        f.checkInvariants()
        try f.base.expect(0..<32, 3)
        f.finish()
    }

    /// aaaa read-only      zzzz zeros     .... holes
    @Test func rightsAreThoseOfTheEntryAndOfTheMapping() throws {
        let f = try MigrationFixture()
        try f.map(0..<12)
        try f.base.write(0..<4, 1)
        try f.base.expect(4..<8, nil)
        try f.space.protect(f.pages(0..<12), .read)
        try f.send(0..<12)
        #expect(f.layout(0..<12) == String(repeating: "1", count: 12))
        #expect((0..<12).allSatisfy { !f.isWritable($0) })
        try f.space.protect(f.pages(0..<12), .readWrite)
        try f.base.expect(0..<4, 1)
        try f.base.write(0..<4, 2)
        try f.base.expect(0..<4, 2)
        try f.base.expect(4..<12, nil)
        f.finish()
    }

    @Test func sharedPagesMoveForBothProcesses() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<4, 5)
        let child = try f.space.fork()
        let cpu = child.makeCPU()
        try f.send(0..<4)
        #expect(f.layout(0..<4) == "1111")
        #expect(f.layout(0..<4, in: child) == "1111")
        f.checkInvariants()
        try f.base.write(0..<2, 6)
        try f.base.expect(0..<4, 5, cpu: cpu)
        try f.base.expect(0..<2, 6)
        try f.base.expect(2..<4, 5)
        child.removeCPU(cpu)
        child.exit()
        f.finish()
    }

    @Test func pagesGoFromDeviceToDevice() throws {
        let f = try MigrationFixture()
        try f.map(0..<6)
        try f.base.write(0..<4, 9)
        try f.send(0..<6)
        let sent = try f.send(0..<6, to: f.second, from: [f.first.memory])
        #expect(sent.moved == 6)
        #expect(f.layout(0..<6) == "222222")
        #expect(f.first.memory.usedFrames == 0)
        f.checkInvariants()
        try f.base.expect(0..<4, 9)
        f.finish()
    }
}
