import Synchronization
import Testing

@testable import HMM

/// A machine that was used and recycled must be told from a fresh one by nothing: the same program is run on both, and
/// everything that numbers and bytes can show is compared.
@Suite("A recycled machine is like a fresh one")
struct RecycleTests {
    private static let base = PageNumber(0x1000000)
    private static func pages(_ range: Range<Int>) -> PageRange {
        base.advanced(by: range.lowerBound)..<base.advanced(by: range.upperBound)
    }

    /// Two processes with small and huge pages, a file, hugetlb, swap and a device. Answers what it saw.
    private static func program(_ machine: Machine, _ devices: [DmirrorDevice]) throws -> [String] {
        var seen: [String] = []
        let space = try machine.makeAddressSpace()
        let cpu = space.makeCPU()
        let mirrors = try devices.map { try $0.open(space) }
        func note(_ what: String, _ range: Range<Int>, of space: AddressSpace) {
            for page in pages(range) { seen.append("\(what) \(page): \(space.leaf(page)?.0.raw ?? 0)") }
        }
        try space.map(pages(0..<8), protection: .readWrite, kind: .anonymous(huge: false))
        try space.map(pages(512..<1024), protection: .readWrite, kind: .anonymous(huge: true))
        try space.map(pages(1024..<1028), protection: .readWrite, kind: .sharedAnonymous)
        try space.map(pages(1536..<2048), protection: .readWrite, kind: .hugetlb())
        for range in [0..<8, 512..<514, 1024..<1028, 1536..<1537] {
            for page in pages(range) { try cpu.store(page.raw, at: page.address) }
        }
        for range in [0..<8, 512..<514, 1024..<1028, 1536..<1537] { note("written", range, of: space) }
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 4 * Geometry.wordsPerPage)
        defer { words.deallocate() }
        for mirror in mirrors.reversed() {
            _ = try mirror.migrate(pages(2..<6), into: words)
            note("on the device", 0..<8, of: space)
        }
        let child = try space.fork()
        let childCPU = child.makeCPU()
        for page in pages(0..<3) { try childCPU.store(1, at: page.address) }
        note("child", 0..<8, of: child)
        try space.advise(pages(6..<8), .pageout)
        try space.advise(pages(1024..<1026), .pageout)
        note("paged out", 0..<8, of: space)
        for page in pages(0..<8) { seen.append("\(try cpu.load(page.address))") }
        note("read", 0..<8, of: space)
        // What a frame held before shows where nobody clears it.
        let frame = try #require(machine.frames.allocateFolio())
        seen.append("left in \(frame): \(machine.frames.words(of: frame)[0].load(ordering: .relaxed))")
        machine.frames.put(frame)
        seen.append("\(machine.statistics.cpuFaults.count) \(machine.statistics.swapOuts.count)")
        #expect(machine.checkInvariants() == [])
        for space in [child, space] { space.exit() }
        for mirror in mirrors { mirror.close() }
        return seen
    }

    private static func devices(_ machine: Machine) throws -> [DmirrorDevice] {
        try [DeviceMemoryKind.private, .coherent].enumerated().map { index, kind in
            try DmirrorDevice(machine: machine, name: "dev\(index)", kind: kind, index: index, capacityBytes: 64 << 20)
        }
    }

    @Test("devices stay, or are made anew each time", arguments: [false, true])
    func theSameProgramSeesTheSame(devicesStay: Bool) throws {
        var configuration = MachineConfiguration.small
        configuration.profile = .next
        let machine = try Machine(configuration)
        var devices = try Self.devices(machine)
        let fresh = try Self.program(machine, devices)
        #expect(fresh.count > 40)
        for round in 1...3 {
            if !devicesStay {
                for device in devices { try device.remove() }
            }
            machine.recycle()
            if !devicesStay { devices = try Self.devices(machine) }
            #expect(machine.checkInvariants() == [])
            #expect(machine.frames.deviceZones.count == 2)
            #expect(try Self.program(machine, devices) == fresh, "round \(round)")
        }
    }

    /// More than the stripes hold goes through the free lists, and more than is cleared goes back to the host.
    @Test(arguments: [1, 600, 6000])
    func framesComeInTheSameOrderAndAreZero(count: Int) throws {
        let frames = try Machine(.small)
        func use() throws -> [FrameNumber] {
            let taken = try (0..<count).map { _ in try #require(frames.frames.allocateFolio()) }
            for frame in taken {
                #expect(frames.frames.isZero(frame))
                frames.frames.words(of: frame)[7].store(1, ordering: .relaxed)
            }
            // Not in the order of their numbers.
            for i in taken.indices { frames.frames.put(taken[i * 7 % count]) }
            return taken
        }
        // Numbers that have a factor of 7 would free some twice.
        try #require(count % 7 != 0)
        let first = try use()
        for _ in 0..<2 {
            frames.recycle()
            #expect(frames.frames.system.countFree() == frames.frames.system.totalFrames)
            #expect(try use() == first)
        }
    }

    @Test func hugetlbPagesComeInTheSameOrderAndAreZero() throws {
        let machine = try Machine(.small)
        func use() throws -> [FrameNumber] {
            let taken = try (0..<3).map { _ in try #require(machine.frames.allocateHugetlbFolio(reserved: false)) }
            for head in taken {
                #expect(machine.frames.isZero(head + 5))
                machine.frames.words(of: head + 5)[0].store(1, ordering: .relaxed)
            }
            for head in taken { machine.frames.put(head) }
            return taken
        }
        let first = try use()
        machine.recycle()
        #expect(try use() == first)
    }

    @Test func anArmedInjectorIsOff() throws {
        let machine = try Machine(.small)
        machine.faultInjector.failAllocation(1, repeating: true)
        machine.recycle()
        #expect(machine.frames.allocateFolio() != nil)
    }

    @Test func whatIsLeftOverTraps() async {
        await #expect(processExitsWith: .failure) {
            let machine = try Machine(.small)
            _ = machine.frames.allocateFolio()
            machine.recycle()
        }
    }
}
