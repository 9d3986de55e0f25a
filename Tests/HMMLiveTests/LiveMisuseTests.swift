import CLive
import Glibc
import HMM
import HMMLive
import Testing

@Suite("What is asked for wrongly", .enabled(if: canRunLive))
struct LiveMisuseTests {
    @Test("a buffer of no elements, or of more than there can be")
    func counts() {
        #expect(throws: HMMError(.invalidArgument)) { _ = try SharedBuffer<Int>(count: 0) }
        #expect(throws: HMMError(.invalidArgument)) { _ = try SharedBuffer<Int>(count: .min) }
        #expect(throws: HMMError(.outOfMemory)) { _ = try SharedBuffer<Int>(count: .max) }
        #expect(throws: HMMError(.outOfMemory)) { _ = try SharedBuffer<Int>(count: 1 << 44) }
        #expect(throws: HMMError(.outOfMemory)) { _ = try SharedBuffer<UInt8>(count: .max) }
    }

    @Test("devices of no number and of less than no memory")
    func devices() throws {
        let space = try LiveSpace.shared
        for index in [-1, Int(UInt32.max), Int.max] {
            #expect(throws: HMMError(.invalidArgument)) { _ = try SoftwareDevice.attach(to: space, index: index) }
            #expect(throws: HMMError(.invalidArgument)) {
                _ = try DmirrorDevice(machine: space.machine, name: "x", kind: .private, index: index)
            }
        }
        #expect(throws: HMMError(.invalidArgument)) {
            let memory = SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: -4096)
            _ = try SoftwareDevice.attach(to: space, index: 1, memory: memory)
        }
    }

    @Test("the test driver: buffers that are too small, mirrors that are closed, devices in use")
    func mirrors() throws {
        let live = try LiveFixture(pages: 8)
        defer { live.device.detach() }
        live.fill()
        let machine = live.space.machine
        let device = try DmirrorDevice(machine: machine, name: "x", kind: .private, index: .random(in: 2_000...3_000))
        let mirror = try device.open(live.space)
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 8 * LiveFixture.perPage)
        defer { words.deallocate() }
        let few = UnsafeMutableBufferPointer(rebasing: words.dropLast())
        #expect(throws: HMMError(.invalidArgument)) { _ = try mirror.read(live.pages, into: few) }
        #expect(throws: HMMError(.invalidArgument)) { _ = try mirror.write(live.pages, from: .init(few)) }
        #expect(throws: HMMError(.invalidArgument)) { _ = try mirror.migrate(live.pages, into: few) }
        #expect(throws: HMMError(.invalidArgument)) { _ = try mirror.exclusive(live.pages, into: few) }
        _ = try mirror.migrate(live.pages, into: words)
        #expect(throws: HMMError(.busy)) { try device.remove() }
        mirror.close()
        mirror.close()
        #expect(throws: HMMError(.noDevice)) { _ = try mirror.read(live.pages, into: words) }
        #expect(throws: HMMError(.noDevice)) { _ = try mirror.snapshot(live.pages) }
        #expect(live.firstDifference() == nil)
        try device.remove()
    }

    @Test("a word that lies across two")
    func unaligned() throws {
        let live = try LiveFixture(pages: 1)
        defer { live.device.detach() }
        let address = VirtualAddress(live.address(0).raw + 3)
        #expect(throws: HMMError(.invalidArgument)) { try live.device.load(address) }
        #expect(throws: HMMError(.invalidArgument)) { try live.device.store(1, at: address) }
        #expect(throws: HMMError(.invalidArgument)) { try live.device.atomicAdd(1, at: address) }
        #expect(throws: HMMError(.invalidArgument)) { try live.device.atomicCompareExchange(1, 1, at: address) }
    }

    @Test("a device that was detached does nothing any more, and a second time is none")
    func detached() throws {
        let live = try LiveFixture(pages: 8)
        live.fill()
        _ = try live.device.prefetch(live.pages)
        live.device.detach()
        live.device.detach()
        let gone = HMMError(.noDevice)
        #expect(throws: gone) { try live.device.run(over: live.buffer) { words, _ in words[0] = 99 } }
        #expect(throws: gone) { try live.device.prefetch(live.pages) }
        #expect(throws: gone) { try live.device.evict(live.pages) }
        #expect(throws: gone) { try live.device.fault(live.pages, .read) }
        #expect(throws: gone) { try live.device.store(99, at: live.address(0)) }
        #expect(throws: gone) { try live.device.atomicAdd(99, at: live.address(0)) }
        #expect(live.firstDifference() == nil && live.isDeviceEmpty)
    }

    @Test("a device that is detached while others use it sees right values until then, and errors afterwards")
    func detachedUnderUse() throws {
        for round in 0..<20 {
            let live = try LiveFixture(pages: 64, deviceBytes: 128 << 10)
            live.fill()
            let (device, buffer) = (live.device, live.buffer)
            let users = (0..<3).map { number in
                Worker {
                    // A device never sees another word than the one that is there.
                    do throws(HMMError) {
                        while true {
                            if number == 0 { _ = try device.prefetch(buffer.pages) }
                            try device.run(over: buffer, for: .read) { words, first in
                                precondition(words[7] == 0x1_0000_0000 + UInt64(first + 7), "a stale word")
                            }
                        }
                    } catch {
                        precondition(error.code == .noDevice, "not the error of a detached device")
                    }
                }
            }
            usleep(UInt32(500 + 300 * round))
            device.detach()
            for user in users { user.join() }
            #expect(live.firstDifference() == nil)
        }
    }

    @Test("a device that nobody holds stays attached, and what it took is there")
    func dropped() throws {
        let space = try LiveSpace.shared
        let buffer = try SharedBuffer<UInt64>(count: 64 * 512)
        for index in buffer.elements.indices { buffer.elements[index] = UInt64(index) }
        struct Failure: Error {}
        weak var dropped: SoftwareDevice?
        #expect(throws: Failure.self) {
            let device = try SoftwareDevice.attach(
                to: space, index: 77,
                memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: 1 << 20))
            dropped = device
            _ = try device.prefetch(buffer.pages)
            throw Failure()
        }
        #expect(buffer.elements.indices.allSatisfy { buffer.elements[$0] == UInt64($0) })
        #expect(dropped != nil)
        dropped?.detach()
        #expect(dropped == nil)
    }

    /// Closes what it did not open, as daemons do.
    private static func closeEverything(usedBySystemCalls: Bool) throws {
        let live = try LiveFixture(pages: 64, usedBySystemCalls: usedBySystemCalls)
        live.fill()
        _ = try live.device.prefetch(live.pages)
        for number in 3..<Int32(1024) { close(number) }
        let lost = live.firstDifference()
        exit(lost == nil ? 0 : 1)
    }

    @Test("a program that closes all descriptors has the data that system calls use; what code alone uses ends it")
    func closed() async {
        await #expect(processExitsWith: .success) {
            try LiveMisuseTests.closeEverything(usedBySystemCalls: true)
        }
        if LiveSpace.features.sigbus {
            await #expect(processExitsWith: .signal(SIGBUS)) {
                try LiveMisuseTests.closeEverything(usedBySystemCalls: false)
            }
        }
    }

    @Test("device memory of an impossible size, and what there is none of, is said; the next start is a first one")
    func starts() async {
        await #expect(processExitsWith: .success) {
            func answer(_ bytes: Int = 1 << 30) -> HMMError.Code? {
                var configuration = LiveSpace.Configuration()
                configuration.deviceMemoryBytes = bytes
                do { _ = try LiveSpace.start(configuration) } catch { return error.code }
                return nil
            }
            precondition(answer(-1) == .invalidArgument)
            precondition(answer(.max) == .invalidArgument)
            precondition(answer(3 << 40 + 4096) == .invalidArgument)
            var limit = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            let free = open("/dev/null", O_RDONLY)
            var less = limit
            less.rlim_cur = rlim_t(free) + 1
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &less)
            precondition(answer() == .tooManyFiles)
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            precondition(answer() == nil)
            let live = try LiveFixture()
            live.fill()
            _ = try live.device.prefetch(live.pages)
            precondition(live.firstDifference() == nil)
            exit(0)
        }
    }
}
