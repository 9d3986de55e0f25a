import CLive
import Glibc
import HMM
import HMMLive
import Testing

@Suite("Pages of the process that a device takes", .enabled(if: canRunLive))
struct LiveMoveTests {
    @Test("what moved to a device is where the CPU left it when it comes back")
    func moveAndTouch() throws {
        let live = try LiveFixture(pages: 40)
        live.fill()
        let summary = try live.device.prefetch(live.pages)
        #expect(summary.moved == 40)
        #expect(live.device.memory!.usedFrames == 40)
        #expect(live.firstDifference() == nil)
        live.space.deliverInvalidations()
        #expect(live.isDeviceEmpty)
        live.device.detach()
    }

    @Test("a device works on its own memory, and the CPU reads what it wrote")
    func deviceWrites() throws {
        let live = try LiveFixture(pages: 20)
        live.fill()
        _ = try live.device.prefetch(live.pages)
        try live.device.run(over: live.buffer) { elements, _ in
            for index in elements.indices { elements[index] += 7 }
        }
        #expect(live.device.memory!.usedFrames == 20)
        for (index, value) in live.buffer.elements.enumerated() {
            #expect(value == 0x1_0000_0007 + UInt64(index))
        }
        live.device.detach()
    }

    @Test("a device without memory works at the process's own addresses")
    func deviceInPlace() throws {
        let space = try LiveSpace.shared
        let buffer = try SharedBuffer<UInt64>(count: 4 * 512)
        let device = try SoftwareDevice.attach(to: space, index: 77)
        for index in buffer.elements.indices { buffer.elements[index] = 3 }
        try device.run(over: buffer) { elements, first in elements[0] = UInt64(first) }
        for page in 0..<4 { #expect(buffer.elements[page * 512] == UInt64(page * 512)) }
        #expect(buffer.elements[1] == 3)
        device.detach()
    }

    @Test("holes become pages of zeros on the device, and stay zeros")
    func holes() throws {
        let live = try LiveFixture(pages: 6)
        let summary = try live.device.prefetch(live.pages)
        #expect(summary.moved + summary.filled == 6)
        #expect(try live.device.load(live.address(3 * 512)) == 0)
        try live.device.store(9, at: live.address(4 * 512 + 1))
        #expect(live.buffer.elements[4 * 512 + 1] == 9)
        #expect(live.buffer.elements[5 * 512] == 0)
        live.device.detach()
    }

    @Test("an eviction brings everything home, and counts it")
    func evict() throws {
        let live = try LiveFixture(pages: 16)
        live.fill()
        _ = try live.device.prefetch(live.pages)
        let summary = try live.device.evict(live.pages)
        #expect(summary.moved == 16)
        #expect(live.isDeviceEmpty)
        #expect(live.firstDifference() == nil)
        live.device.detach()
    }

    @Test("a full device gives up what it has not used for longest")
    func fullDevice() throws {
        let live = try LiveFixture(pages: 64, deviceBytes: 16 * 4096)
        live.fill()
        for first in stride(from: 0, to: 64, by: 16) {
            let start = live.pages.lowerBound.advanced(by: first)
            let part = start..<start.advanced(by: 16)
            _ = try live.device.prefetch(part)
            try live.device.run(over: live.buffer, in: part) { elements, _ in elements[0] += 1 }
        }
        #expect(live.device.memory!.usedFrames <= 16)
        for page in 0..<64 { #expect(live.buffer.elements[page * 512] == 0x1_0000_0001 + UInt64(page * 512)) }
        live.device.detach()
    }

    @Test("unmapped memory leaves nothing on the device")
    func unmapped() throws {
        let space = try LiveSpace.shared
        var live: LiveFixture? = try LiveFixture(pages: 8)
        let device = live!.device
        live!.fill()
        _ = try device.prefetch(live!.pages)
        live = nil
        #expect(device.memory!.usedFrames == 0)
        device.detach()
        withExtendedLifetime(space) {}
    }

    @Test("discarded pages read as zeros, also when they were away")
    func discarded() throws {
        let live = try LiveFixture(pages: 8)
        live.fill()
        _ = try live.device.prefetch(live.pages)
        #expect(live.space.advise(live.page(2), MADV_DONTNEED) == 0)
        #expect(live.buffer.elements[2 * 512 + 5] == 0)
        #expect(live.buffer.elements[3 * 512 + 5] == 0x1_0000_0000 + UInt64(3 * 512 + 5))
        live.device.detach()
    }

    @Test("read-only and unreadable memory: what may move does, what may not stays, and comes back as it was")
    func protections() throws {
        let live = try LiveFixture(pages: 8)
        live.fill()
        #expect(live.space.protect(live.pages, PROT_READ) == 0)
        _ = try live.device.prefetch(live.pages)
        #expect(live.device.memory!.usedFrames == 8)
        #expect(live.firstDifference() == nil)
        live.space.deliverInvalidations()
        #expect(live.space.protect(live.pages, PROT_NONE) == 0)
        #expect(try live.device.prefetch(live.pages).moved == 0)
        #expect(throws: HMMError(.badAddress)) { try live.device.load(live.address(0)) }
        #expect(live.space.protect(live.pages, PROT_READ | PROT_WRITE) == 0)
        live.fill(2)
        #expect(live.firstDifference(2) == nil)
        live.device.detach()
    }

    @Test("mremap takes pages along that are away")
    func remapped() throws {
        let space = try LiveSpace.shared
        let size = 8 * 4096
        let start = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        let target = mmap(nil, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        let old = Self.pages(start, 8)
        let new = Self.pages(target, 8)
        for index in 0..<8 * 512 { start.assumingMemoryBound(to: UInt64.self)[index] = UInt64(index) }
        let device = try SoftwareDevice.attach(
            to: space, index: 901, memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: 1 << 20))
        #expect(try device.prefetch(old).moved == 8)
        #expect(space.remap(old, newPageCount: 8, flags: 3, to: new.lowerBound) == .moved(new.lowerBound))
        #expect(device.memory!.usedFrames == 8)
        let words = target.assumingMemoryBound(to: UInt64.self)
        #expect((0..<8 * 512).first { words[$0] != UInt64($0) } == nil)
        #expect(space.unmap(new) == 0)
        #expect(device.memory!.usedFrames == 0)
        device.detach()
    }

    private static func pages(_ start: UnsafeMutableRawPointer, _ count: Int) -> PageRange {
        let first = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: start))))
        return first..<first.advanced(by: count)
    }

    @Test("a buffer of huge pages has some, and a child has them too", .enabled(if: hasHugePages))
    func hugeBuffer() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 1024, hugePages: true)
            var seen = [UInt8](repeating: 0, count: 1024)
            precondition(clive_look(live.pages.lowerBound.raw, 1024, &seen) == 0)
            precondition(seen.contains { $0 & UInt8(CLIVE_HUGE) != 0 })
            precondition(live.buffer.elements.allSatisfy { $0 == 0 })
            live.fill()
            let child = live.space.fork()
            if child == 0 { exit(live.firstDifference() == nil ? 0 : 1) }
            var status: Int32 = 0
            precondition(waitpid(child, &status, 0) == child && status == 0)
            exit(0)
        }
    }

    @Test("huge pages go and come whole or in pieces, with every byte")
    func hugePages() throws {
        let live = try LiveFixture(pages: 1024, hugePages: true)
        live.fill()
        #expect(try live.device.prefetch(live.pages).moved == 1024)
        #expect(live.firstDifference() == nil)
        live.device.detach()
    }

    @Test("a system call that gets a buffer that is away waits for it")
    func systemCall() throws {
        let live = try LiveFixture(pages: 4, usedBySystemCalls: true)
        live.fill()
        _ = try live.device.prefetch(live.pages)
        var ends: [Int32] = [0, 0]
        #expect(pipe(&ends) == 0)
        let bytes = 4 * 4096
        if !clive_answers_kernel_faults() {
            // Not for this user: the call says so, and memory that was touched is like any other.
            #expect(Glibc.write(ends[1], live.buffer.elements.baseAddress, bytes) == -1 && errno == EFAULT)
            #expect(live.firstDifference() == nil)
        }
        #expect(Glibc.write(ends[1], live.buffer.elements.baseAddress, bytes) == bytes)
        var copy = [UInt64](repeating: 0, count: 4 * 512)
        #expect(Glibc.read(ends[0], &copy, bytes) == bytes)
        for (index, value) in copy.enumerated() where value != 0x1_0000_0000 + UInt64(index) {
            Issue.record("word \(index) is \(value)")
            break
        }
        close(ends[0])
        close(ends[1])
        live.device.detach()
    }

    @Test("atomics of a device and of CPUs on one word lose nothing")
    func atomics() throws {
        let live = try LiveFixture(pages: 1)
        let rounds = 2_000
        let word = live.buffer.elements.baseAddress!
        word.pointee = 0
        let done = Counter()
        let address = UInt(bitPattern: word)
        let cpu = Worker {
            for _ in 0..<rounds {
                Counter.add(1, at: UnsafeMutablePointer<UInt64>(bitPattern: address)!)
            }
            done.add()
        }
        for _ in 0..<rounds { _ = try live.device.atomicAdd(1, at: live.address(0)) }
        cpu.join()
        #expect(word.pointee == UInt64(2 * rounds))
        live.device.detach()
    }
}
