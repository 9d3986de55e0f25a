import CLive
import Glibc
import HMM
import HMMLive
import Testing

/// A process whose faults in system calls are not answered, as it is for a user without rights: what the kernel writes
/// at the program's addresses must go on working wherever no device has the page.
@Suite("Without the faults of system calls", .enabled(if: canRunLive))
struct LiveRightsTests {
    @Test("a fork takes no memory from the kernel, and both processes keep their data")
    func forkedBuffers() async {
        await #expect(processExitsWith: .success) {
            setenv("HMM_WITHOUT", "kernel-faults", 1)
            let live = try LiveFixture(pages: 8, usedBySystemCalls: true)
            precondition(!clive_answers_kernel_faults())
            live.fill()
            _ = try live.device.prefetch(live.page(6).lowerBound..<live.pages.upperBound)
            let child = live.space.fork()
            // A file of the process's own words, read over them.
            let isReadable = Zeros.read(into: live.page(1)) && Zeros.read(into: live.page(3))
            for page in [1, 3] {
                for word in page * 512..<page * 512 + 512 { live.buffer.elements[word] += 0x1_0000_0000 + UInt64(word) }
            }
            let isRight = isReadable && live.firstDifference() == nil
            if child == 0 { _exit(isRight ? 0 : 1) }
            var status: Int32 = 0
            waitpid(child, &status, 0)
            precondition(status == 0, "the kernel could not write in the child")
            precondition(isRight, "the kernel could not write in the parent")
            exit(0)
        }
    }

    /// MREMAP_MAYMOVE and MREMAP_FIXED.
    private static let mayMoveHere: Int32 = 3

    @Test("a process that gave up its rights can fork all the same", .enabled(if: geteuid() == 0, "needs root"))
    func lostRights() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 8, usedBySystemCalls: true)
            live.fill()
            _ = try live.device.prefetch(live.pages)
            precondition(setuid(65534) == 0)
            let child = live.space.fork()
            if child == 0 {
                let isRight = live.firstDifference() == nil
                live.fill(2)
                _exit(isRight && live.firstDifference(2) == nil ? 0 : 1)
            }
            var status: Int32 = 0
            waitpid(child, &status, 0)
            precondition(status == 0, "the child of who gave up his rights lost data")
            precondition(live.firstDifference() == nil)
            exit(0)
        }
    }

    @Test("what lies beside pages that a device took is as before, and all of it can be moved")
    func neighbours() async {
        await #expect(processExitsWith: .success) {
            setenv("HMM_WITHOUT", "kernel-faults", 1)
            let live = try LiveFixture()
            let bytes = 16 << 12
            let start = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
            let first = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: start))))
            let words = start.assumingMemoryBound(to: UInt64.self)
            for page in 0..<8 { words[page * 512] = 7 + UInt64(page) }
            let taken = first.advanced(by: 2)..<first.advanced(by: 4)
            let moved = try live.device.prefetch(taken).moved
            precondition(moved == 2)
            precondition(clive_registered(first.advanced(by: 2).raw) >= 0)
            precondition(clive_registered(first.raw) < 0 && clive_registered(first.advanced(by: 12).raw) < 0)
            // Nothing was ever written there: the kernel has to make a page.
            let hole = first.advanced(by: 12)
            precondition(Zeros.read(into: hole..<hole.advanced(by: 1)), "a hole is a bad address")
            let old = first..<first.advanced(by: 8)
            let place = mmap(nil, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
            let target = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: place))))
            let answer = live.space.remap(old, newPageCount: 8, flags: Self.mayMoveHere, to: target)
            precondition(answer == .moved(target), "the memory could not be moved: \(answer)")
            let here = place.assumingMemoryBound(to: UInt64.self)
            for page in 0..<8 { precondition(here[page * 512] == 7 + UInt64(page), "page \(page) is lost") }
            exit(0)
        }
    }

    @Test("a fault of a device finds holes that are answered here beside others")
    func mixedHoles() async {
        await #expect(processExitsWith: .success) {
            setenv("HMM_WITHOUT", "kernel-faults", 1)
            let live = try LiveFixture()
            let bytes = 8 << 12
            let start = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
            let first = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: start))))
            let words = start.assumingMemoryBound(to: UInt64.self)
            for page in [0, 4] { words[page * 512] = 1 }
            let middle = first.advanced(by: 4)..<first.advanced(by: 5)
            _ = try live.device.prefetch(middle)
            precondition(live.space.advise(middle, MADV_DONTNEED) == 0)
            precondition(clive_registered(first.raw) < 0 && clive_registered(middle.lowerBound.raw) >= 0)
            // Each of the other ways to fault in goes over all of the pages.
            let populateForWriting: Int32 = 23
            precondition(live.space.advise(first..<first.advanced(by: 8), populateForWriting) == 0)
            try live.device.store(5, at: middle.lowerBound.address)
            precondition(words[0] == 1 && words[4 * 512] == 5)
            exit(0)
        }
    }

    @Test("a name that stands for nothing is an error")
    func unknownName() async {
        await #expect(processExitsWith: .success) {
            setenv("HMM_WITHOUT", "move,everything", 1)
            do throws(HMMError) {
                _ = try LiveSpace.start()
            } catch {
                exit(error.code == .invalidArgument ? 0 : 1)
            }
            exit(2)
        }
    }
}

/// What a system call writes.
private enum Zeros {
    static func read(into pages: PageRange) -> Bool {
        let bytes = pages.pageCount << 12
        let file = open("/dev/zero", O_RDONLY)
        defer { close(file) }
        return Glibc.read(file, UnsafeMutableRawPointer(bitPattern: UInt(pages.lowerBound.address.raw)), bytes) == bytes
    }
}
