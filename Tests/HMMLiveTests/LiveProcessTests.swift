import CLive
import Glibc
import HMM
import HMMLive
import Testing

@Suite("What a process does beside its devices", .enabled(if: canRunLive))
struct LiveProcessTests {
    @Test("pages are copied where they are not moved: every byte arrives, also under fire")
    func copyTransport() async {
        await #expect(processExitsWith: .success) {
            var configuration = LiveSpace.Configuration()
            configuration.copiesAlways = true
            _ = try LiveSpace.start(configuration)
            let live = try LiveFixture(pages: 16)
            live.fill(0)
            let rounds = 300
            let start = UInt(bitPattern: live.buffer.elements.baseAddress!)
            let cpu = Worker {
                for _ in 0..<rounds {
                    for page in 0..<16 {
                        Counter.add(1, at: UnsafeMutablePointer<UInt64>(bitPattern: start)! + page * 512)
                    }
                }
            }
            for _ in 0..<rounds {
                _ = try live.device.prefetch(live.pages)
                for page in 0..<16 { _ = try live.device.atomicAdd(1, at: live.address(page * 512)) }
            }
            cpu.join()
            for page in 0..<16 {
                let sum = live.buffer.elements[page * 512]
                precondition(sum == UInt64(2 * rounds + page * 512), "an addition was lost")
            }
            var counts = clive_counts()
            clive_read_counts(&counts)
            precondition(counts.moved == 0 && counts.copied > 0)
            exit(0)
        }
    }

    @Test("a fault brings home as many pages as it was told to", arguments: [1, 4, 16])
    func faultAround(_ around: Int) async {
        await #expect(processExitsWith: .success) { [around] in
            var configuration = LiveSpace.Configuration()
            configuration.faultAroundPages = around
            let space = try LiveSpace.start(configuration)
            let live = try LiveFixture(pages: 64)
            live.fill()
            _ = try live.device.prefetch(live.pages)
            precondition(live.buffer.elements[20 * 512] == 0x1_0000_0000 + 20 * 512)
            space.deliverInvalidations()
            precondition(live.device.memory!.usedFrames == 64 - around)
            exit(0)
        }
    }

    @Test("a fault-around that is no power of two is refused, and the next start is a first one")
    func badConfiguration() async {
        await #expect(processExitsWith: .success) {
            for pages in [0, 3, 1024] {
                var configuration = LiveSpace.Configuration()
                configuration.faultAroundPages = pages
                do throws(HMMError) {
                    _ = try LiveSpace.start(configuration)
                    exit(1)
                } catch { precondition(error == HMMError(.invalidArgument)) }
            }
            _ = try LiveSpace.shared
            exit(0)
        }
    }

    @Test("memory of malloc goes to a device and comes back")
    func heap() throws {
        let space = try LiveSpace.shared
        let count = 1 << 18
        let array = UnsafeMutablePointer<UInt64>.allocate(capacity: count)
        defer { array.deallocate() }
        for index in 0..<count { array[index] = UInt64(index) }
        let first = PageNumber(UInt64(UInt(bitPattern: array) + 4095) >> 12)
        let pages = first..<first.advanced(by: 256)
        let device = try SoftwareDevice.attach(
            to: space, index: 902, memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: 4 << 20))
        let summary = try device.prefetch(pages)
        #expect(summary.moved == 256)
        #expect((0..<count).first { array[$0] != UInt64($0) } == nil)
        // What the C library unmaps behind our back must be home before.
        _ = try device.evict(pages)
        device.detach()
    }

    @Test("memory that is unmapped behind our back is found out, and its slots are given back")
    func unmappedBehindOurBack() async {
        await #expect(processExitsWith: .success) {
            let space = try LiveSpace.shared
            let device = try SoftwareDevice.attach(
                to: space, index: 906, memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: 4 << 20))
            let bytes = 64 * 4096
            let old = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
            let words = old.assumingMemoryBound(to: UInt64.self)
            let first = PageNumber(UInt64(UInt(bitPattern: old)) >> 12)
            let pages = first..<first.advanced(by: 64)
            for round in 1...3 {
                for page in 0..<64 { words[page * 512] = UInt64(round) }
                for _ in 0..<100 where device.memory!.usedFrames < 64 {
                    _ = try device.prefetch(pages)
                    usleep(1000)
                }
                precondition(device.memory!.usedFrames == 64)
                // What the C library does in free().
                munmap(old, bytes)
                let new = mmap(old, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
                precondition(new == old)
                precondition(words[5 * 512] == 0, "the new memory has old bytes")
                words[7 * 512] = 42
                // Found out when the device next comes here; dropped in the background.
                for _ in 0..<100 {
                    _ = try device.prefetch(pages)
                    if try device.load(VirtualAddress(UInt64(UInt(bitPattern: words + 7 * 512)))) == 42 { break }
                    usleep(1000)
                }
                for page in 0..<64 {
                    let value = try device.load(VirtualAddress(UInt64(UInt(bitPattern: words + page * 512))))
                    precondition(value == (page == 7 ? 42 : 0), "the device has old bytes")
                }
                precondition(words[7 * 512] == 42 && words[8 * 512] == 0)
                _ = try device.evict(pages)
                space.deliverInvalidations()
                precondition(device.memory!.usedFrames == 0)
            }
            exit(0)
        }
    }

    @Test("the stack of another thread, and one's own: what moves comes back, what cannot stays")
    func stacks() throws {
        let space = try LiveSpace.shared
        let device = try SoftwareDevice.attach(
            to: space, index: 903, memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: 4 << 20))
        let place = Counter()
        let moved = Counter()
        let ok = Counter()
        let other = Worker {
            withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 4096) { words in
                for index in words.indices { words[index] = UInt64(index) }
                place.set(UInt64(UInt(bitPattern: words.baseAddress!)))
                while moved.count == 0 { sched_yield() }
                if words.indices.allSatisfy({ words[$0] == UInt64($0) }) { ok.add() }
            }
        }
        while place.count == 0 { sched_yield() }
        let first = PageNumber((place.count + 4095) >> 12)
        _ = try device.prefetch(first..<first.advanced(by: 6))
        moved.add()
        other.join()
        #expect(ok.count == 1)
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 4096) { words in
            for index in words.indices { words[index] = UInt64(index) }
            let first = PageNumber(UInt64(UInt(bitPattern: words.baseAddress!) + 4095) >> 12)
            _ = try? device.prefetch(first..<first.advanced(by: 6))
            #expect(words.indices.allSatisfy { words[$0] == UInt64($0) })
        }
        device.detach()
    }

    /// vmsplice(2), which Swift does not import.
    @_silgen_name("vmsplice")
    private static func vmsplice(
        _ end: Int32, _ vectors: UnsafePointer<iovec>, _ count: Int, _ flags: UInt32
    ) -> Int

    @Test("a page that the kernel holds for an I/O stays where it is")
    func pinned() throws {
        let live = try LiveFixture(pages: 4)
        live.fill()
        var ends: [Int32] = [0, 0]
        #expect(pipe(&ends) == 0)
        var vector = iovec(iov_base: live.buffer.elements.baseAddress! + 512, iov_len: 4096)
        // The pipe holds the page itself until it is read.
        #expect(Self.vmsplice(ends[1], &vector, 1, 0) == 4096)
        _ = try live.device.prefetch(live.pages)
        #expect(live.firstDifference() == nil)
        var copy = [UInt64](repeating: 0, count: 512)
        #expect(Glibc.read(ends[0], &copy, 4096) == 4096)
        #expect(copy[5] == 0x1_0000_0000 + 512 + 5)
        close(ends[0])
        close(ends[1])
        live.device.detach()
    }

    @Test("a device that is removed in the middle gives everything back")
    func deviceGoesAway() throws {
        let live = try LiveFixture(pages: 32)
        live.fill()
        _ = try live.device.prefetch(live.pages)
        let memory = live.device.memory!
        live.device.detach()
        #expect(memory.usedFrames == 0)
        #expect(live.firstDifference() == nil)
    }

    @Test("coherent memory of a device stays in the CPU's reach")
    func coherent() throws {
        let space = try LiveSpace.shared
        let buffer = try SharedBuffer<UInt64>(count: 8 * 512)
        let device = try SoftwareDevice.attach(
            to: space, index: 904, memory: SoftwareDeviceMemory(on: space.machine, .coherent, sizeBytes: 1 << 20))
        for index in buffer.elements.indices { buffer.elements[index] = 1 }
        #expect(try device.prefetch(buffer.pages).moved == 8)
        #expect(device.memory!.usedFrames == 8)
        buffer.elements[5] = 2
        #expect(try device.load(VirtualAddress(UInt64(UInt(bitPattern: buffer.elements.baseAddress! + 5)))) == 2)
        #expect(device.memory!.usedFrames == 8)
        #expect(try device.evict(buffer.pages).moved == 8)
        #expect(device.memory!.usedFrames == 0)
        #expect(buffer.elements[5] == 2 && buffer.elements[6] == 1)
        device.detach()
    }

    @Test("two devices take a page from each other, and nothing is lost")
    func twoDevices() throws {
        let live = try LiveFixture(pages: 8)
        let other = try SoftwareDevice.attach(
            to: live.space, index: 905,
            memory: SoftwareDeviceMemory(on: live.space.machine, .private, sizeBytes: 1 << 20))
        live.fill()
        for _ in 0..<20 {
            _ = try live.device.prefetch(live.pages, from: [other])
            _ = try other.prefetch(live.pages, from: [live.device])
        }
        #expect(other.memory!.usedFrames == 8)
        #expect(live.isDeviceEmpty)
        #expect(live.firstDifference() == nil)
        live.device.detach()
        other.detach()
    }
}
