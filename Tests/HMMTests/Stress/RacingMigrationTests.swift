import Synchronization
import Testing

@testable import HMM

/// Aim: devices and CPUs that all want the same pages get on. Each of them does a bounded number of accesses; a
/// livelock shows as a test that does not end.
@Suite("Racing migrations", .serialized)
struct RacingMigrationTests {
    static let base = PageNumber(0x40_0000)

    struct Setup {
        let space: AddressSpace
        let devices: [SoftwareDevice]
        let pages: PageRange

        init(
            pageCount: Int, kinds: [DeviceMemoryKind], profile: KernelProfile, residenceNanoseconds: UInt64 = 0
        ) throws {
            var configuration = MachineConfiguration()
            configuration.systemMemoryBytes = 32 << 20
            configuration.profile = profile
            let space = try Machine(configuration).makeAddressSpace()
            self.space = space
            pages = base..<base.advanced(by: pageCount)
            try space.map(pages, protection: .readWrite, kind: .anonymous(huge: false))
            var policy = DeviceFaultPolicy()
            policy.residenceNanoseconds = residenceNanoseconds
            devices = try kinds.enumerated().map { index, kind in
                try SoftwareDevice.attach(
                    to: space, index: index + 1,
                    memory: SoftwareDeviceMemory(on: space.machine, kind, sizeBytes: 2 << 20), placement: .onFault,
                    policy: policy)
            }
        }

        /// Every word counts the accesses of everybody.
        func expectCounts(_ count: UInt64) throws {
            let cpu = space.makeCPU()
            for page in pages { #expect(try cpu.load(page.address) == count) }
            space.removeCPU(cpu)
            #expect(space.machine.checkInvariants() == [])
            for device in devices {
                device.detach()
                #expect(device.memory?.usedFrames == 0)
            }
            space.exit()
            #expect(space.machine.frames.system.usedFrames == 0)
        }
    }

    @Test(
        "two devices and three CPUs on one range, all moving it",
        arguments: [KernelProfile.linux6_12, .next], [[DeviceMemoryKind.private, .private], [.private, .coherent]])
    func threads(_ profile: KernelProfile, _ kinds: [DeviceMemoryKind]) throws {
        let setup = try Setup(pageCount: 4, kinds: kinds, profile: profile)
        let rounds = 60
        withThreads(5) { index in
            let cpu = setup.space.makeCPU()
            for _ in 0..<rounds {
                for page in setup.pages {
                    do {
                        if index < 2 {
                            _ = try setup.devices[index].atomicAdd(1, at: page.address)
                        } else {
                            _ = try cpu.fetchAdd(1, at: page.address)
                        }
                    } catch {
                        Issue.record("actor \(index): \(error)")
                    }
                }
            }
            setup.space.removeCPU(cpu)
        }
        try setup.expectCounts(UInt64(5 * rounds))
    }

    @Test("many CPUs fault on one private page that its device keeps taking back")
    func oneHotPage() throws {
        let setup = try Setup(pageCount: 1, kinds: [.private], profile: .next, residenceNanoseconds: 20_000)
        let rounds = 100
        withThreads(6) { index in
            let cpu = setup.space.makeCPU()
            for _ in 0..<rounds {
                if index == 0 {
                    _ = try? setup.devices[0].atomicAdd(1, at: Self.base.address)
                } else {
                    _ = try? cpu.fetchAdd(1, at: Self.base.address)
                }
            }
            setup.space.removeCPU(cpu)
        }
        try setup.expectCounts(UInt64(6 * rounds))
    }

    @Test("the same under a scheduler that changes threads at every point", arguments: [UInt64(0), 1, 2])
    func schedule(seed: UInt64) throws {
        let setup = try Setup(pageCount: 1, kinds: [.private, .private], profile: .next)
        let cpus = (0..<2).map { _ in setup.space.makeCPU() }
        let address = Self.base.address
        var bodies: [() -> Void] = setup.devices.map { device in
            { for _ in 0..<4 { _ = try! device.atomicAdd(1, at: address) } }
        }
        for cpu in cpus { bodies.append { for _ in 0..<4 { _ = try! cpu.fetchAdd(1, at: address) } } }
        let outcome = RoundRobinScheduler.run(seed: seed, bodies)
        #expect(outcome.ending == .finished && outcome.violations.isEmpty && outcome.leftLocks == 0)
        for cpu in cpus { setup.space.removeCPU(cpu) }
        try setup.expectCounts(16)
    }
}
