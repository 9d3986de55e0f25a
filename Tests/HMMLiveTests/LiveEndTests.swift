import CLive
import Glibc
import HMM
import HMMLive
import Testing

@Suite("Ends with pages away", .enabled(if: canRunLive))
struct LiveEndTests {
    /// execve(2), with no environment.
    private static func execute(_ path: UnsafeMutablePointer<CChar>, _ arguments: [UnsafeMutablePointer<CChar>?]) {
        execve(path, arguments + [nil], [nil])
    }

    @Test("a program that is replaced needs nothing that was away")
    func exec() async {
        await #expect(processExitsWith: .exitCode(7)) {
            let live = try LiveFixture(pages: 16, usedBySystemCalls: true)
            live.fill()
            _ = try live.device.prefetch(live.pages)
            LiveEndTests.execute(strdup("/bin/sh"), [strdup("sh"), strdup("-c"), strdup("exit 7")])
            exit(1)
        }
    }

    @Test("a child that becomes another program, whose arguments were away; the parent has its data")
    func childExec() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 16, usedBySystemCalls: true)
            live.fill()
            // The words are in pages of their own.
            let words = ["/bin/sh", "-c", "exit 9"].enumerated().map { index, word in
                let place = UnsafeMutableRawPointer(live.buffer.elements.baseAddress! + (8 + index) * 512)
                return strcpy(place.assumingMemoryBound(to: CChar.self), word)!
            }
            for round in 0..<3 {
                _ = try live.device.prefetch(live.pages)
                let child: pid_t
                if round == 2 {
                    var spawned: pid_t = 0
                    precondition(posix_spawn(&spawned, words[0], nil, nil, words + [nil], [nil]) == 0)
                    child = spawned
                } else {
                    child = live.space.fork()
                    if child == 0 {
                        LiveEndTests.execute(words[0], words)
                        _exit(1)
                    }
                }
                var status: Int32 = 0
                precondition(waitpid(child, &status, 0) == child && status == 9 << 8, "it ended with \(status)")
                for page in 0..<8 {
                    precondition(live.buffer.elements[page * 512 + 7] == 0x1_0000_0000 + UInt64(page * 512 + 7))
                }
            }
            exit(0)
        }
    }

    /// For a function without context.
    nonisolated(unsafe) private static var atEnd: UnsafeMutablePointer<UInt64>?  // Set once, before it is used.

    @Test("what runs at the end of a process finds its data, and no device has to be closed")
    func processExit() async {
        await #expect(processExitsWith: .exitCode(3)) {
            let live = try LiveFixture(pages: 16)
            live.fill()
            LiveEndTests.atEnd = live.buffer.elements.baseAddress!
            atexit {
                for word in stride(from: 0, to: 16 * 512, by: 512) {
                    if LiveEndTests.atEnd![word] != 0x1_0000_0000 + UInt64(word) { _exit(1) }
                }
                _exit(3)
            }
            _ = try live.device.prefetch(live.pages)
            _ = try live.device.atomicAdd(0, at: live.address(3 * 512))
            exit(0)
        }
    }

    @Test("a thread that ends leaves pages away that others find")
    func threadEnds() throws {
        let live = try LiveFixture(pages: 16)
        live.fill()
        let worker = Worker { _ = try? live.device.prefetch(live.pages) }
        worker.join()
        #expect(live.device.memory!.usedFrames == 16)
        #expect(live.firstDifference() == nil)
        live.device.detach()
    }

    @Test("a test driver that gives up its memory, or goes away, leaves everything at home and no slot filled")
    func driverGoesAway() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 256)
            live.fill()
            let machine = live.space.machine
            let driver = try DmirrorDevice(machine: machine, name: "crashing", kind: .private, index: 55)
            var words = [UInt64](repeating: 0, count: 256 * LiveFixture.perPage)
            for round in 0..<3 {
                let mirror = try driver.open(live.space)
                let moved = try words.withUnsafeMutableBufferPointer { buffer throws(HMMError) in
                    try mirror.migrate(live.pages, into: buffer).moved
                }
                precondition(moved == 256 && words[77] == 0x1_0000_0000 + 77)
                if round == 1 { live.buffer.elements[0] = 0x1_0000_0000 }
                if round == 2 {
                    // As when the device is torn out: its mirrors are gone before its memory.
                    mirror.close()
                    try driver.remove()
                } else {
                    try driver.release()
                    mirror.close()
                }
                precondition(live.firstDifference() == nil, "round \(round) lost data")
                let left = LiveEndTests.residentSlots(of: machine)
                precondition(left == 0, "\(left) slots of a device that is gone have bytes")
            }
            exit(0)
        }
    }

    /// Pages of the arena of all devices that have bytes.
    private static func residentSlots(of machine: Machine) -> Int {
        let (base, count) = machine.frames.arena
        // Device memory begins at a multiple of 1 GiB, behind the little that the model's own memory has.
        let first = 1 << 18
        var resident = [UInt8](repeating: 0, count: count - first)
        precondition(mincore(base + first << 12, resident.count << 12, &resident) == 0)
        return resident.count { $0 & 1 != 0 }
    }
}
