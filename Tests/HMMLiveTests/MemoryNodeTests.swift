import CLive
import Glibc
import HMM
import Testing

@testable import HMMLive

/// The first node that has memory and no processors, as there is on few machines. Elsewhere the node of everything
/// stands in for it: what is done is the same, and a page that should move is there already.
private let memoryOnlyNode: Int? = (try? MemoryNodes(.automatic)).flatMap { $0 }.map { Int($0.coherent) }

/// A kernel that balances nodes by itself moves what the test touches.
private let pagesStay: Bool = {
    guard memoryOnlyNode != nil, let file = fopen("/proc/sys/kernel/numa_balancing", "r") else { return true }
    defer { fclose(file) }
    return fgetc(file) == 48
}()

/// A precondition of something that may throw.
private func check(_ isTrue: Bool, line: UInt = #line) { precondition(isTrue, "line \(line)") }

@Suite("Device-coherent memory that is a node of the machine", .serialized, .enabled(if: canRunLive))
struct MemoryNodeTests {
    /// A device with coherent memory on the node, and a buffer.
    private struct Fixture {
        let space: LiveSpace
        let device: SoftwareDevice
        let buffer: SharedBuffer<UInt64>
        static let perPage = Geometry.wordsPerPage

        init(pages: Int, devicePages: Int, hugePages: Bool = false) throws(HMMError) {
            var configuration = LiveSpace.Configuration()
            configuration.coherentNode = memoryOnlyNode == nil ? .node(0) : .automatic
            space = try LiveSpace.start(configuration)
            precondition(space.coherentNode == memoryOnlyNode ?? 0)
            buffer = try SharedBuffer(count: pages * Self.perPage, hugePages: hugePages)
            if !hugePages { precondition(space.advise(buffer.pages, MADV_NOHUGEPAGE) == 0) }
            device = try SoftwareDevice.attach(
                to: space, index: 904,
                memory: SoftwareDeviceMemory(on: space.machine, .coherent, sizeBytes: devicePages * 4096))
        }

        func pages(_ range: Range<Int>) -> PageRange {
            let first = buffer.pages.lowerBound
            return first.advanced(by: range.lowerBound)..<first.advanced(by: range.upperBound)
        }

        func fill(_ range: Range<Int>) {
            for page in range { buffer.elements[page * Self.perPage + 3] = UInt64(page) + 1 }
        }

        func requireFilled(_ range: Range<Int>) {
            for page in range { precondition(buffer.elements[page * Self.perPage + 3] == UInt64(page) + 1) }
        }

        /// Where each page of the buffer lies; -1: nowhere.
        var nodes: [Int32] {
            var nodes = [Int32](repeating: -1, count: buffer.pages.pageCount)
            precondition(clive_nodes(buffer.pages.map(\.raw), nodes.count, &nodes) == 0)
            return nodes.map { max($0, -1) }
        }

        func require(_ range: Range<Int>, on node: Int) {
            let nodes = nodes
            for page in range where pagesStay {
                precondition(nodes[page] == Int32(node), "page \(page) is on node \(nodes[page])")
            }
        }
    }

    /// Processors of the machines that this runs on are beside the first node.
    private static let home = 0

    @Test("lists of nodes")
    func lists() {
        #expect(MemoryNodes.numbers("0-1,4\n") == [0, 1, 4])
        #expect(MemoryNodes.numbers("2\n") == [2])
        #expect(MemoryNodes.numbers("\n") == [])
        #expect(MemoryNodes.numbers("3-1,x-") == [])
    }

    @Test("a node that is not there is refused; none is none")
    func choices() throws {
        #expect(throws: HMMError(.invalidArgument)) { try MemoryNodes(.node(-1)) }
        #expect(throws: HMMError(.invalidArgument)) { try MemoryNodes(.node(9_999)) }
        #expect(try MemoryNodes(.none) == nil)
        let nodes = try #require(try MemoryNodes(.node(0)))
        #expect(nodes.coherent == 0 && !nodes.homes.isEmpty)
    }

    @Test("pages with bytes and holes go to the node and come home, and every byte is right all the time")
    func toAndFro() async {
        await #expect(processExitsWith: .success) {
            let live = try Fixture(pages: 600, devicePages: 1024)
            live.fill(0..<400)
            live.require(0..<400, on: MemoryNodeTests.home)
            let summary = try live.device.prefetch(live.buffer.pages)
            precondition(summary.moved == 400 && summary.filled == 200)
            let node = live.space.coherentNode!
            live.require(0..<600, on: node)
            precondition(live.device.memory!.usedFrames == 600)
            // The CPU reaches the page where it is.
            live.requireFilled(0..<400)
            live.fill(300..<600)
            try live.device.store(7, at: VirtualAddress(UInt64(UInt(bitPattern: live.buffer.elements.baseAddress!))))
            live.require(0..<600, on: node)
            check(try live.device.evict(live.pages(0..<250)).moved == 250)
            live.require(0..<250, on: MemoryNodeTests.home)
            live.require(250..<600, on: node)
            precondition(live.device.memory!.usedFrames == 350)
            live.device.detach()
            live.require(0..<600, on: MemoryNodeTests.home)
            live.requireFilled(0..<600)
            precondition(live.buffer.elements[0] == 7)
            exit(0)
        }
    }

    @Test("a full device gives up pages, which come home; two devices hand pages over")
    func devices() async {
        await #expect(processExitsWith: .success) {
            let live = try Fixture(pages: 64, devicePages: 16)
            live.fill(0..<64)
            for first in stride(from: 0, to: 64, by: 16) {
                _ = try live.device.prefetch(live.pages(first..<first + 16))
            }
            let node = live.space.coherentNode!
            live.require(0..<48, on: MemoryNodeTests.home)
            live.require(48..<64, on: node)
            let other = try SoftwareDevice.attach(
                to: live.space, index: 905,
                memory: SoftwareDeviceMemory(on: live.space.machine, .coherent, sizeBytes: 64 * 4096))
            check(try other.prefetch(live.buffer.pages, from: [live.device]).moved == 64)
            live.require(0..<64, on: node)
            precondition(live.device.memory!.usedFrames == 0 && other.memory!.usedFrames == 64)
            let apart = try SoftwareDevice.attach(
                to: live.space, index: 906,
                memory: SoftwareDeviceMemory(on: live.space.machine, .private, sizeBytes: 64 * 4096))
            check(try apart.prefetch(live.pages(0..<8), from: [other]).moved == 8)
            check(try apart.evict(live.pages(0..<8)).moved == 8)
            live.require(0..<8, on: MemoryNodeTests.home)
            live.require(8..<64, on: node)
            live.requireFilled(0..<64)
            other.detach()
            live.require(0..<64, on: MemoryNodeTests.home)
            exit(0)
        }
    }

    @Test("exclusive access takes a page from the node, and read-only memory goes there like any")
    func rights() async {
        await #expect(processExitsWith: .success) {
            let live = try Fixture(pages: 32, devicePages: 32)
            live.fill(0..<16)
            precondition(live.space.protect(live.pages(8..<16), PROT_READ) == 0)
            _ = try live.device.prefetch(live.buffer.pages)
            live.require(0..<32, on: live.space.coherentNode!)
            _ = try live.device.atomicAdd(
                5, at: VirtualAddress(UInt64(UInt(bitPattern: live.buffer.elements.baseAddress! + 2 * 512 + 3))))
            precondition(live.buffer.elements[2 * 512 + 3] == 8)
            check(try live.device.evict(live.buffer.pages).moved >= 31)
            live.require(8..<16, on: MemoryNodeTests.home)
            live.requireFilled(8..<16)
            exit(0)
        }
    }

    @Test("huge pages go whole")
    func hugePages() async {
        await #expect(processExitsWith: .success) {
            let live = try Fixture(pages: 1024, devicePages: 1024, hugePages: true)
            live.fill(0..<1024)
            check(try live.device.prefetch(live.buffer.pages).moved == 1024)
            live.require(0..<1024, on: live.space.coherentNode!)
            check(try live.device.evict(live.buffer.pages).moved == 1024)
            live.require(0..<1024, on: MemoryNodeTests.home)
            live.requireFilled(0..<1024)
            exit(0)
        }
    }

    @Test("children share pages on the node until they write")
    func fork() async {
        await #expect(processExitsWith: .success) {
            let live = try Fixture(pages: 32, devicePages: 32)
            live.fill(0..<32)
            _ = try live.device.prefetch(live.pages(0..<16))
            let child = live.space.fork()
            if child == 0 {
                live.requireFilled(0..<32)
                for page in 0..<32 { live.buffer.elements[page * 512] = 9 }
                live.requireFilled(0..<32)
                _exit(0)
            }
            _ = try live.device.prefetch(live.buffer.pages)
            live.requireFilled(0..<32)
            var status: Int32 = 0
            waitpid(child, &status, 0)
            precondition(status == 0, "the child lost data")
            live.fill(0..<32)
            _ = try live.device.prefetch(live.buffer.pages)
            live.require(0..<32, on: live.space.coherentNode!)
            live.device.detach()
            live.require(0..<32, on: MemoryNodeTests.home)
            live.requireFilled(0..<32)
            exit(0)
        }
    }

    /// vmsplice(2), which Swift does not import.
    @_silgen_name("vmsplice")
    private static func vmsplice(
        _ end: Int32, _ vectors: UnsafePointer<iovec>, _ count: Int, _ flags: UInt32
    ) -> Int

    @Test("what an I/O holds stays on its node, and the rest goes", .enabled(if: memoryOnlyNode != nil))
    func held() async {
        await #expect(processExitsWith: .success) {
            let live = try Fixture(pages: 16, devicePages: 32)
            live.fill(0..<16)
            var ends: [Int32] = [0, 0]
            precondition(pipe(&ends) == 0)
            func hold(_ page: Int) {
                var vector = iovec(iov_base: live.buffer.elements.baseAddress! + page * 512, iov_len: 4096)
                precondition(MemoryNodeTests.vmsplice(ends[1], &vector, 1, 0) == 4096)
            }
            func letGo() {
                var bytes = [UInt8](repeating: 0, count: 4096)
                precondition(read(ends[0], &bytes, 4096) == 4096)
            }
            hold(5)
            let summary = try live.device.prefetch(live.buffer.pages)
            precondition(summary.moved == 15 && summary.stayed == 1 && summary.withoutPlace == 0)
            let node = live.space.coherentNode!
            live.require(5..<6, on: MemoryNodeTests.home)
            live.require(6..<16, on: node)
            letGo()
            check(try live.device.prefetch(live.buffer.pages).moved == 1)
            hold(9)
            check(try live.device.evict(live.buffer.pages).moved == 15)
            live.require(9..<10, on: node)
            precondition(live.device.memory!.usedFrames == 1)
            letGo()
            check(try live.device.evict(live.buffer.pages).moved == 1)
            live.require(0..<16, on: MemoryNodeTests.home)
            live.requireFilled(0..<16)
            exit(0)
        }
    }

    /// Of a node that a test can fill.
    private static let smallNodePages: Int? = {
        guard let node = memoryOnlyNode, let file = fopen("/sys/devices/system/node/node\(node)/meminfo", "r") else {
            return nil
        }
        defer { fclose(file) }
        var text = [CChar](repeating: 0, count: 128)
        guard fgets(&text, 128, file) != nil else { return nil }
        let line = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let kilobytes = line.split(separator: " ").compactMap { Int($0) }.last
        return kilobytes.flatMap { $0 <= 300 << 10 ? $0 / 4 : nil }
    }()

    @Test("a full node is a full device: what has no place stays where it is", .enabled(if: smallNodePages != nil))
    func fullNode() async {
        await #expect(processExitsWith: .success) {
            let size = MemoryNodeTests.smallNodePages!
            let count = size + 4096
            let live = try Fixture(pages: count, devicePages: count)
            live.fill(0..<count)
            let request = MigrationRequest.toDevice(
                live.device.memory!, owner: NotifierOwner(device: 904, mirror: 77))
            let summary = try live.space.migrate(
                live.buffer.pages, request, copy: { $0.copyToDevice(live.device.memory!, evicting: false) })
            let (moved, withoutPlace) = (summary.moved, summary.withoutPlace)
            print("a node of \(size) pages: \(moved) moved, \(withoutPlace) without a place")
            precondition(moved + withoutPlace == count && withoutPlace >= 4096 && moved > size / 2)
            let node = Int32(live.space.coherentNode!)
            precondition(!pagesStay || live.nodes.count { $0 == node } == moved)
            precondition(live.device.memory!.usedFrames == moved)
            live.requireFilled(0..<count)
            // One that gives up what it has not used for longest has place for the end.
            let end = live.pages(count - 64..<count)
            _ = try live.device.prefetch(end)
            live.require(count - 64..<count, on: Int(node))
            live.device.detach()
            live.require(0..<count, on: MemoryNodeTests.home)
            live.requireFilled(0..<count)
            exit(0)
        }
    }
}
