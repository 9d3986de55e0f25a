import Synchronization
import Testing

@testable import HMM

/// Aim: a device with memory of its own computes right wherever the pages are, and its atomics exclude everybody.
@Suite("Software device with memory", .serialized)
struct SoftwareDeviceMemoryTests {
    static let base = PageNumber(0x2_000_000)

    func makeSpace(_ profile: KernelProfile = .next) throws -> AddressSpace {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = 64 << 20
        configuration.profile = profile
        return try Machine(configuration).makeAddressSpace()
    }

    func pages(_ range: Range<Int>) -> PageRange {
        Self.base.advanced(by: range.lowerBound)..<Self.base.advanced(by: range.upperBound)
    }
    func address(_ page: Int) -> VirtualAddress { Self.base.advanced(by: page).address }

    func attach(
        _ space: AddressSpace, _ kind: DeviceMemoryKind, index: Int = 1, pages: Int = 512,
        placement: PlacementPolicy = .never
    ) throws -> SoftwareDevice {
        try SoftwareDevice.attach(
            to: space, index: index,
            memory: SoftwareDeviceMemory(on: space.machine, kind, sizeBytes: pages * Geometry.pageSizeBytes),
            placement: placement)
    }

    func finish(_ space: AddressSpace, _ devices: [SoftwareDevice]) {
        #expect(space.machine.checkInvariants() == [])
        for device in devices {
            #expect(device.table.checkInvariants().isEmpty && device.ownMigrations.isEmpty)
            device.detach()
            #expect(device.memory?.usedFrames == 0)
        }
        space.exit()
        #expect(space.machine.frames.system.usedFrames == 0 && space.machine.checkInvariants() == [])
    }

    @Test(
        "prefetch maps what moved and what is resident; evict brings it back",
        arguments: [DeviceMemoryKind.private, .coherent])
    func prefetchAndEvict(_ kind: DeviceMemoryKind) throws {
        let space = try makeSpace()
        try space.map(pages(0..<32), protection: .readWrite, kind: .anonymous(huge: false))
        try space.map(pages(32..<40), protection: .readWrite, kind: .sharedAnonymous)
        let cpu = space.makeCPU()
        for page in 0..<40 where page % 4 != 3 || page >= 32 { try cpu.store(UInt64(page) + 1, at: address(page)) }
        let device = try attach(space, kind)
        let summary = try device.prefetch(pages(0..<40))
        #expect(summary.moved == 24 && summary.filled == 8 && summary.stayed == 8)
        #expect(device.table.statistics.mappedPages == 40)
        #expect(device.table.lookup(Self.base)?.location == .ownDevice)
        #expect(device.table.lookup(Self.base.advanced(by: 33))?.location == .system)
        let misses = space.machine.statistics.deviceFaults.count
        for page in 0..<40 {
            #expect(try device.load(address(page)) == (page % 4 != 3 || page >= 32 ? UInt64(page) + 1 : 0))
        }
        #expect(space.machine.statistics.deviceFaults.count == misses, "all of it was mapped")
        for page in 0..<32 { try device.store(UInt64(page) + 100, at: address(page)) }
        #expect(try device.evict(pages(0..<16)).moved == 16)
        for page in 0..<32 { #expect(try cpu.load(address(page)) == UInt64(page) + 100) }
        for page in 0..<32 { #expect(try device.load(address(page)) == UInt64(page) + 100) }
        finish(space, [device])
    }

    @Test("a device with little memory works on much: what it has not used for longest makes room")
    func outOfCore() throws {
        let space = try makeSpace()
        try space.map(pages(0..<256), protection: .readWrite, kind: .anonymous(huge: false))
        let device = try attach(space, .private, pages: 64, placement: .onFault)
        for round in 1...3 as ClosedRange<UInt64> {
            for page in 0..<256 { try device.store(UInt64(page) &* round, at: address(page)) }
        }
        #expect(try #require(device.memory).usedFrames == 64)
        for page in 0..<256 { #expect(try device.load(address(page)) == UInt64(page) * 3) }
        finish(space, [device])
    }

    @Test("atomics are local in own memory and exclusive in system memory", arguments: [KernelProfile.linux6_12, .next])
    func atomics(_ profile: KernelProfile) throws {
        let space = try makeSpace(profile)
        try space.map(pages(0..<4), protection: .readWrite, kind: .anonymous(huge: false))
        try space.map(pages(8..<9), protection: .readWrite, kind: .sharedAnonymous)
        let cpu = space.makeCPU()
        let device = try attach(space, .private)
        try cpu.store(40, at: address(0))
        #expect(try device.atomicAdd(2, at: address(0)) == 40)
        #expect(space.leaf(Self.base)?.0.softLeaf?.kind == .deviceExclusive)
        #expect(try device.atomicCompareExchange(42, 7, at: address(0)) == 42)
        #expect(try device.atomicCompareExchange(42, 8, at: address(0)) == 7)
        #expect(try cpu.load(address(0)) == 7)
        #expect(device.table.lookup(Self.base) == nil, "the CPU took it back")
        _ = try device.prefetch(pages(0..<1))
        #expect(try device.atomicAdd(1, at: address(0)) == 7)
        #expect(space.leaf(Self.base)?.0.softLeaf?.kind == .devicePrivate, "it did not leave for that")
        #expect(try cpu.fetchAdd(1, at: address(0)) == 8)
        #expect(throws: HMMError(.notSupported)) { _ = try device.atomicAdd(1, at: address(8)) }
        #expect(throws: HMMError(.badAddress)) { _ = try device.atomicAdd(1, at: address(6)) }
        finish(space, [device])
    }

    @Test("an own page that is shared with a child is copied before it is written")
    func ownPageOfAChild() throws {
        let space = try makeSpace()
        try space.map(pages(0..<2), protection: .readWrite, kind: .anonymous(huge: false))
        let device = try attach(space, .private, placement: .onFault)
        try device.store(1, at: address(0))
        try device.store(1, at: address(1))
        let child = try space.fork()
        try device.store(2, at: address(0))
        _ = try device.atomicAdd(2, at: address(1))
        let cpu = child.makeCPU()
        #expect(try cpu.load(address(0)) == 1)
        #expect(try cpu.load(address(1)) == 1)
        child.removeCPU(cpu)
        child.exit()
        #expect(try device.load(address(0)) == 2)
        #expect(try device.load(address(1)) == 3)
        finish(space, [device])
    }

    @Test("a page that keeps changing hands moves to the device, if the policy says so")
    func contention() throws {
        let space = try makeSpace()
        try space.map(pages(0..<1), protection: .readWrite, kind: .anonymous(huge: false))
        let activity = ExclusiveActivity(handOverLimit: 4, windowNanoseconds: 60_000_000_000)
        space.exclusiveObserver = activity
        let device = try attach(space, .private, placement: .whenContended(activity))
        let cpu = space.makeCPU()
        for _ in 0..<2 {
            _ = try device.atomicAdd(1, at: address(0))
            #expect(space.leaf(Self.base)?.0.softLeaf?.kind == .deviceExclusive)
            _ = try cpu.fetchAdd(1, at: address(0))
        }
        _ = try device.atomicAdd(1, at: address(0))
        #expect(space.leaf(Self.base)?.0.softLeaf?.kind == .devicePrivate)
        #expect(try cpu.load(address(0)) == 5)
        finish(space, [device])
    }

    @Test("queued atomics are served")
    func queuedAtomics() throws {
        let space = try makeSpace()
        try space.map(pages(0..<16), protection: .readWrite, kind: .anonymous(huge: false))
        let device = try attach(space, .coherent)
        for (page, access) in [(1, AccessKind.atomic), (2, .write), (1, .read)] {
            #expect(device.enqueue(.init(page: Self.base.advanced(by: page), access: access, client: 0)))
        }
        #expect(device.serveFaults() == 3)
        #expect(device.permits(Self.base.advanced(by: 1), .atomic) && device.permits(Self.base.advanced(by: 2), .write))
        finish(space, [device])
    }

    /// A migration maps its pages before it lets them go; what was discarded meanwhile must not be among them.
    @Test("a page that is discarded while it moves is not mapped")
    func discardedOnTheWay() throws {
        let space = try makeSpace()
        try space.map(pages(0..<64), protection: .readWrite, kind: .anonymous(huge: false))
        let device = try attach(space, .private)
        let isDone = Atomic<Bool>(false)
        withThreads(3) { index in
            let cpu = space.makeCPU()
            for round in 0..<50 where index == 0 {
                for page in stride(from: 0, to: 64, by: 3) { try? cpu.store(UInt64(round), at: address(page)) }
                _ = try? device.prefetch(pages(0..<64))
            }
            if index == 0 { isDone.store(true, ordering: .relaxed) }
            while index > 0, !isDone.load(ordering: .relaxed) { try? space.advise(pages(0..<64), .dontneed) }
            space.removeCPU(cpu)
        }
        device.table.forEachRun(in: pages(0..<64)) { run in
            for page in run.pages {
                #expect(space.leaf(page)?.0.frame == run.frame(at: page), "the device maps what the CPU has not")
            }
        }
        finish(space, [device])
    }
}
