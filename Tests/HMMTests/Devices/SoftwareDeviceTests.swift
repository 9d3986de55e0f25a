import Synchronization
import Testing

@testable import HMM

/// Aim: a device with its own tables and caches sees what the CPU sees, whatever changes the mappings.
@Suite("Software device", .serialized)
struct SoftwareDeviceTests {
    static let base = PageNumber(0x2_000_000)

    func makeSpace(_ profile: KernelProfile = .next, mebibytes: Int = 64) throws -> AddressSpace {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = mebibytes << 20
        configuration.profile = profile
        return try Machine(configuration).makeAddressSpace()
    }

    func pages(_ range: Range<Int>) -> PageRange {
        Self.base.advanced(by: range.lowerBound)..<Self.base.advanced(by: range.upperBound)
    }

    @Test("loads and stores go through the table, and come back after an invalidation")
    func accesses() throws {
        let space = try makeSpace()
        try space.map(pages(0..<8), protection: .readWrite, kind: .anonymous())
        let device = try SoftwareDevice.attach(to: space, index: 7)
        let cpu = space.makeCPU()
        let address = Self.base.address
        #expect(try device.load(address) == 0)
        try cpu.store(5, at: address)
        #expect(try device.load(address) == 5)
        try device.store(6, at: address)
        #expect(try cpu.load(address) == 6)
        try space.protect(pages(0..<8), .read)
        #expect(try device.load(address) == 6)
        #expect(throws: HMMError(.notPermitted)) { try device.store(7, at: address) }
        try space.unmap(pages(0..<8))
        #expect(throws: HMMError(.badAddress)) { try device.load(address) }
        #expect(throws: HMMError(.badAddress)) { try device.withPage(Self.base, for: .atomic) { _ in } }
        #expect(device.table.statistics.mappedPages == 0)
        device.detach()
        #expect(space.notifiers.subscriptionCount == 0)
        space.exit()
    }

    @Test("huge leaves are mirrored by one entry")
    func hugeLeaf() throws {
        let space = try makeSpace()
        try space.map(pages(0..<1024), protection: .readWrite, kind: .anonymous(huge: true))
        let device = try SoftwareDevice.attach(to: space, index: 1)
        _ = try device.fault(pages(0..<1024), .write)
        #expect(device.table.statistics.hugeEntries == 2 && device.table.statistics.mappedPages == 1024)
        #expect(device.table.checkInvariants().isEmpty)
        device.detach()
        space.exit()
    }

    @Test("what the device wrote survives being swapped out: its dirty bits reach the page")
    func dirtyHarvest() throws {
        let space = try makeSpace()
        try space.map(pages(0..<16), protection: .readWrite, kind: .anonymous())
        let device = try SoftwareDevice.attach(to: space, index: 1)
        for page in 0..<16 { try device.store(UInt64(page) + 100, at: pages(page..<page + 1).lowerBound.address) }
        try space.advise(pages(0..<16), .pageout)
        let cpu = space.makeCPU()
        for page in 0..<16 { #expect(try cpu.load(pages(page..<page + 1).lowerBound.address) == UInt64(page) + 100) }
        for page in 0..<16 { #expect(try device.load(pages(page..<page + 1).lowerBound.address) == UInt64(page) + 100) }
        try device.store(1, at: Self.base.address)
        try space.advise(pages(0..<16), .pageout)
        #expect(try cpu.load(Self.base.address) == 1, "clean in swap, dirty on the device: written again")
        device.detach()
        space.exit()
    }

    @Test(
        "INV-FQ-2: a served block takes neighbours along only where the CPU has them",
        arguments: [KernelProfile.linux6_12, .next])
    func queuedFaults(profile: KernelProfile) throws {
        let space = try makeSpace(profile)
        try space.map(pages(0..<64), protection: .readWrite, kind: .anonymous(huge: false))
        let cpu = space.makeCPU()
        try cpu.store(1, at: Self.base.advanced(by: 9).address)
        let device = try SoftwareDevice.attach(to: space, index: 1)
        let resumed = Atomic<Int>(0)
        device.resumed = { _ in resumed.add(1, ordering: .relaxed) }
        for page in [2, 5, 5] {
            #expect(device.enqueue(.init(page: Self.base.advanced(by: page), access: .write, client: UInt64(page))))
        }
        #expect(device.serveFaults() == 3)
        let count = resumed.load(ordering: .relaxed)
        #expect(count == 3)
        #expect(device.table.statistics.mappedPages == 3, "2, 5 and the neighbour 9")
        for page in [0, 1, 3, 4, 6, 15] {
            #expect(space.leaf(Self.base.advanced(by: page))?.0.isNone ?? true, "page \(page) was not asked for")
        }
        device.detach()
        space.exit()
    }

    /// Threads that write values only they write, and check what they read; mappings change meanwhile.
    @Test("two devices and three CPUs on one address space, beside fork, protect, dontneed and page-out")
    func stress() throws {
        let space = try makeSpace(mebibytes: 256)
        let count = 64
        try space.map(pages(0..<count), protection: .readWrite, kind: .anonymous(huge: false))
        let devices = try (0..<2).map { try SoftwareDevice.attach(to: space, index: $0) }
        let region = pages(0..<count)
        withThreads(6) { index in
            // Each writer owns one word of every page, and its values only grow.
            let cpu = space.makeCPU()
            var written = [UInt64](repeating: 0, count: count)
            for round in 1...600 as ClosedRange<UInt64> {
                let page = Int((round &* 2_654_435_761 &+ UInt64(index) &* 40_503) % UInt64(count))
                let address = VirtualAddress(region.lowerBound.advanced(by: page).address.raw + UInt64(index) * 8)
                switch index {
                case 0, 1, 2:
                    guard let seen = try? cpu.load(address) else { continue }
                    #expect(seen == written[page], "a CPU's own word")
                    if (try? cpu.store(round, at: address)) != nil { written[page] = round }
                case 3, 4:
                    guard let seen = try? devices[index - 3].load(address) else { continue }
                    #expect(seen == written[page], "a device's own word")
                    if (try? devices[index - 3].store(round, at: address)) != nil { written[page] = round }
                default:
                    let part = region.lowerBound.advanced(by: page)..<region.upperBound
                    switch round % 4 {
                    case 0: try? space.advise(part, .pageout)
                    case 1:
                        try? space.protect(part, .read)
                        try? space.protect(part, .readWrite)
                    case 2: if let child = try? space.fork() { child.exit() }
                    default: SyncThread.yield()
                    }
                }
            }
            space.removeCPU(cpu)
        }
        for device in devices {
            #expect(device.table.checkInvariants().isEmpty)
            #expect(device.tlb.accessesInFlight == 0)
            device.detach()
        }
        #expect(space.notifiers.checkInvariants().isEmpty && space.notifiers.subscriptionCount == 0)
        space.exit()
        #expect(space.machine.frames.system.usedFrames == 0)
    }
}
