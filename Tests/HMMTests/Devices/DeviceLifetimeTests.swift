import Testing

@testable import HMM

/// Aim: nobody keeps a device that is gone, an address space that nobody uses, or their machine.
/// Method: weak references, after the last strong one went.
@Suite("Lifetimes") struct DeviceLifetimeTests {
    private static let pages = PageNumber(0x1000)..<PageNumber(0x1008)

    private func makeSpace(_ profile: KernelProfile = .linux6_12) throws -> AddressSpace {
        var configuration = MachineConfiguration.small
        configuration.profile = profile
        let space = try Machine(configuration).makeAddressSpace()
        try space.map(Self.pages, protection: .readWrite, kind: .anonymous())
        return space
    }

    private func migrate(_ mirror: DmirrorMirror) throws {
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(
            capacity: Self.pages.pageCount * Geometry.wordsPerPage)
        defer { words.deallocate() }
        #expect(try mirror.migrate(Self.pages, into: words).moved == Self.pages.pageCount)
    }

    @Test("a software device goes when it is detached", arguments: [DeviceMemoryKind.private, .coherent])
    func softwareDevice(_ kind: DeviceMemoryKind) throws {
        weak var device: SoftwareDevice?
        weak var machine: Machine?
        do {
            let space = try makeSpace()
            let attached = try SoftwareDevice.attach(
                to: space, index: 1, memory: SoftwareDeviceMemory(on: space.machine, kind, sizeBytes: 2 << 20))
            (device, machine) = (attached, space.machine)
            #expect(try attached.prefetch(Self.pages, faulting: .write).moved == Self.pages.pageCount)
            #expect(try space.makeCPU().load(Self.pages.lowerBound.address) == 0)
            attached.detach()
        }
        #expect(device == nil && machine == nil)
    }

    @Test("a test driver's device goes without being removed", arguments: [DeviceMemoryKind.private, .coherent])
    func dmirror(_ kind: DeviceMemoryKind) throws {
        weak var device: DmirrorDevice?
        weak var mirror: DmirrorMirror?
        weak var machine: Machine?
        do {
            let space = try makeSpace()
            let opened = try DmirrorDevice(machine: space.machine, name: "a", kind: kind, index: 1)
            let file = try opened.open(space)
            (device, mirror, machine) = (opened, file, space.machine)
            try migrate(file)
            file.close()
        }
        #expect(device == nil && mirror == nil && machine == nil)
    }

    @Test("a CPU that nobody removed goes with its address space, and keeps it until then")
    func cpu() throws {
        weak var space: AddressSpace?
        weak var machine: Machine?
        var cpu: CPU? = nil
        do {
            let made = try makeSpace()
            (space, machine) = (made, made.machine)
            cpu = made.makeCPU()
            try cpu?.store(7, at: Self.pages.lowerBound.address)
        }
        #expect(space != nil)
        try space?.protect(Self.pages, .read)
        #expect(throws: AccessFault.segmentationFault) { try cpu?.store(8, at: Self.pages.lowerBound.address) }
        #expect(try cpu?.load(Self.pages.lowerBound.address) == 7)
        cpu = nil
        #expect(space == nil && machine == nil)
    }

    @Test("what lies in the memory of a device that is gone can still be read")
    func heldPages() throws {
        let space = try makeSpace(.next)
        weak var device: DmirrorDevice?
        let child: AddressSpace
        do {
            let opened = try DmirrorDevice(machine: space.machine, name: "a", kind: .private, index: 1)
            device = opened
            let mirror = try opened.open(space)
            let cpu = space.makeCPU()
            for page in Self.pages { try cpu.store(7, at: page.address) }
            try migrate(mirror)
            child = try space.fork()
            // From here on only the child has the pages, which nobody mirrors.
            try space.unmap(Self.pages)
            mirror.close()
        }
        #expect(device == nil)
        #expect(space.machine.frames.deviceZones[0].usedFrames == Self.pages.pageCount)
        let cpu = child.makeCPU()
        for page in Self.pages { #expect(try cpu.load(page.address) == 7) }
        #expect(space.machine.frames.deviceZones[0].usedFrames == 0)
    }

    @Test("files and shared memory go with their mappings")
    func files() throws {
        weak var machine: Machine?
        weak var file: FileMapping?
        do {
            let space = try makeSpace()
            machine = space.machine
            let made = try space.machine.makeFile(pageCount: 8)
            file = made
            let pages = PageNumber(0x2000)..<PageNumber(0x2008)
            try space.map(pages, protection: .readWrite, kind: .sharedFile(made))
            try space.makeCPU().store(1, at: pages.lowerBound.address)
            let child = try space.fork()
            try child.makeCPU().store(2, at: pages.lowerBound.address)
        }
        #expect(file == nil && machine == nil)
    }
}
