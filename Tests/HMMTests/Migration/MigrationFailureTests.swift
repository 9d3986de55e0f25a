import Synchronization
import Testing

@testable import HMM

/// Whatever fails, and wherever: no page is lost, each is readable at its address, and the books add up.
@Suite("Migration: failures")
struct MigrationFailureTests {
    /// What lies in the range: written, zeros, holes, swapped, huge.
    private func mixed(_ kind: DeviceMemoryKind, _ profile: KernelProfile) throws -> MigrationFixture {
        let f = try MigrationFixture(kind, profile)
        try f.map(0..<24)
        try f.base.write(0..<8, 1)
        try f.base.expect(8..<12, nil)
        try f.base.write(16..<20, 1)
        try f.space.advise(f.pages(16..<18), .pageout)
        try f.map(512..<1024, huge: true)
        try f.base.write(512..<1024, 1)
        return f
    }

    private func expectContents(_ f: MigrationFixture) throws {
        try f.base.expect(0..<8, 1)
        try f.base.expect(8..<16, nil)
        try f.base.expect(16..<20, 1)
        try f.base.expect(20..<24, nil)
        try f.base.expect(512..<1024, 1)
    }

    @Test("INV-MG-1, INV-MG-2: the n-th allocation fails, for every n, on the way there and back", arguments: [
        DeviceMemoryKind.private, .coherent,
    ], [KernelProfile.linux6_12, .next])
    func allocationsFail(kind: DeviceMemoryKind, profile: KernelProfile) throws {
        for n in 1... {
            let f = try mixed(kind, profile)
            f.machine.faultInjector.failAllocation(n)
            _ = try? f.send(0..<24, fault: n % 2 == 0 ? .fault : [])
            _ = try? f.send(512..<1024)
            _ = try? f.fetch(0..<24)
            _ = try? f.fetch(512..<1024)
            let failed = f.machine.faultInjector.disarm()
            f.checkInvariants()
            try expectContents(f)
            f.finish()
            if failed == 0 { break }
            #expect(n < 200)
        }
    }

    @Test("all allocations fail from the n-th on", arguments: [KernelProfile.linux6_12, .next])
    func memoryIsGone(profile: KernelProfile) throws {
        for n in 1..<14 {
            let f = try mixed(.private, profile)
            try f.send(0..<8)
            f.machine.faultInjector.failAllocation(n, repeating: true)
            _ = try? f.send(512..<1024)
            _ = try? f.fetch(0..<24)
            _ = try? f.base.cpu.load(f.pages(3..<4).lowerBound.address)
            _ = f.machine.faultInjector.disarm()
            f.checkInvariants()
            try expectContents(f)
            f.finish()
        }
    }

    @Test("the device has room for n pages, for every n")
    func devicesRunFull() throws {
        for n in 0...20 {
            let f = try MigrationFixture(devicePages: n)
            try f.map(0..<20)
            try f.base.write(0..<16, 1)
            let sent = try f.send(0..<20)
            #expect(sent.moved + sent.filled == n && sent.withoutPlace == 20 - n)
            f.checkInvariants()
            try f.base.expect(0..<16, 1)
            try f.base.expect(16..<20, nil)
            f.finish()
        }
    }

    @Test("a page with a reference that nothing explains, at every position, stays: there and back", arguments: [
        DeviceMemoryKind.private, .coherent,
    ])
    func foreignReferences(kind: DeviceMemoryKind) throws {
        for position in 0..<12 {
            let f = try MigrationFixture(kind)
            try f.map(0..<12)
            try f.base.write(0..<12, 1)
            let held = f.entry(position)!.frame
            f.frames.get(held)
            #expect(try f.send(0..<12).moved == 11)
            #expect(f.entry(position)!.frame == held)
            f.frames.put(held)
            f.checkInvariants()
            #expect(try f.send(0..<12).moved == 1)
            let away = f.entry(position)!.frame
            f.frames.get(away)
            #expect(try f.fetch(0..<12).moved == 11)
            #expect(f.entry(position)!.frame == away)
            f.frames.put(away)
            f.checkInvariants()
            try f.base.expect(0..<12, 1)
            f.finish()
        }
    }

    @Test("a reference that appears after setup is found at commit")
    func lateReferences() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<4, 1)
        let held = f.entry(2)!.frame
        let moved = try f.withMigration(0..<4, f.toFirst) { m in
            m.copyToDevice(f.first.memory)
            f.frames.get(held)
            m.commit()
            return (0..<4).map { m.hasMoved($0) }
        }
        #expect(moved == [true, true, false, true])
        f.frames.put(held)
        #expect(f.layout(0..<4) == "11s1")
        try f.base.expect(0..<4, 1)
        f.finish()
    }

    private struct DriverFailure: Error {}

    @Test("whatever the driver leaves out or throws, every page ends as it was", arguments: 0..<4)
    func driversThatStop(after step: Int) throws {
        let f = try MigrationFixture()
        try f.map(0..<8)
        try f.base.write(0..<6, 1)
        let old = (0..<8).map { f.entry($0)?.frame }
        #expect(throws: HMMError(.noDevice)) {
            try f.withMigration(0..<8, f.toFirst) { (m: borrowing Migration) throws(HMMError) in
                if step >= 1 { m.copyToDevice(f.first.memory) }
                if step >= 3 { m.commit() }
                if step != 2 { throw HMMError(.noDevice) }
                m.finish()
                throw HMMError(.noDevice)
            }
        }
        #expect((0..<8).map { f.entry($0)?.frame } == old || step == 3)
        f.checkInvariants()
        try f.base.expect(0..<6, 1)
        f.finish()
    }

    /// An engine that fails at one page of each copy, or always.
    private final class BadEngine: DeviceCopyEngine, @unchecked Sendable {
        let failures = Mutex<Int>(0)
        let isBroken = Atomic<Bool>(false)
        func copy(_ source: UnsafeRawPointer, to destination: UnsafeMutableRawPointer, pageCount: Int) -> Bool {
            guard !isBroken.load(ordering: .relaxed) else { return false }
            let turn = failures.withLock {
                $0 += 1
                return $0
            }
            copyPages(from: source, to: destination, count: pageCount)
            return turn % 3 != 0
        }
    }

    @Test("pages that the device fails to copy stay where they are")
    func copiesFail() throws {
        let f = try MigrationFixture()
        let engine = BadEngine()
        f.first.memory.copyEngine = engine
        try f.map(0..<9)
        try f.base.write(0..<9, 1)
        let sent = try f.send(0..<9)
        #expect(sent.moved == 6 && sent.notCopied == 3)
        f.checkInvariants()
        engine.isBroken.store(true, ordering: .relaxed)
        #expect(try f.fetch(0..<9).notCopied == 6)
        #expect(f.machine.evictAll(of: f.first.memory) == 0)
        // A page that its device cannot give back is an error for who wants it, and nothing is made up.
        #expect(throws: AccessFault.busError) { try f.base.expect(0..<1, 1) }
        f.checkInvariants()
        engine.isBroken.store(false, ordering: .relaxed)
        f.first.memory.copyEngine = nil
        try f.base.expect(0..<9, 1)
        f.finish()
    }

    @Test("a CPU whose page has nowhere to go gets an error, and its page later")
    func noMemoryForTheWayBack() throws {
        let f = try MigrationFixture(window: 16)
        try f.map(0..<32)
        try f.base.write(0..<32, 1)
        try f.send(0..<32)
        f.machine.faultInjector.failAllocation(1, repeating: true)
        #expect(throws: AccessFault.outOfMemory) { try f.base.expect(3..<4, 1) }
        _ = f.machine.faultInjector.disarm()
        f.checkInvariants()
        try f.base.expect(0..<32, 1)
        f.finish()
    }
}
