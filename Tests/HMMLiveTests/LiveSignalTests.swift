import CLive
import CLivePlay
import Glibc
import HMM
import HMMLive
import Testing

// What the handler of the test has to know; a handler has no context. Set before the handler is installed, and counted
// by the one thread that faults.
nonisolated(unsafe) private var older = sigaction()
nonisolated(unsafe) private var ownPage: UnsafeMutableRawPointer?
nonisolated(unsafe) private var calls = 0
nonisolated(unsafe) private var isChaining = true

/// A program's handler: it mends a page of its own, and hands on what is not its own.
private func handle(_ number: Int32, _ info: UnsafeMutablePointer<siginfo_t>?, _ context: UnsafeMutableRawPointer?) {
    calls += 1
    let address = info!.pointee._sifields._sigfault.si_addr!
    if let page = ownPage, address >= page, address < page + 4096 {
        mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
        return
    }
    guard isChaining, calls < 100 else { _exit(99) }
    older.__sigaction_handler.sa_sigaction(number, info, context)
}

@Suite("Handlers of SIGBUS beside ours", .enabled(if: canRunLive && LiveSpace.features.sigbus))
struct LiveSignalTests {
    private static func install() {
        var action = sigaction()
        action.__sigaction_handler.sa_sigaction = handle
        action.sa_flags = SA_SIGINFO
        precondition(sigaction(SIGBUS, &action, &older) == 0)
    }

    /// A page behind the end of its file: whoever reads it gets a SIGBUS.
    private static func pageBehindEnd() -> UnsafeMutableRawPointer {
        let file = clive_play_file(4096)
        precondition(file >= 0)
        ftruncate(file, 0)
        return mmap(nil, 4096, PROT_READ, MAP_SHARED, file, 0)!
    }

    @Test("a handler that goes on to ours has every fault answered, before and after ours is in front again")
    func chaining() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 16)
            live.fill()
            LiveSignalTests.install()
            _ = try live.device.prefetch(live.pages)
            precondition(live.firstDifference() == nil)
            // The thread that tells mirrors may have been first.
            precondition(calls <= 1)
            let before = calls
            _ = try SharedBuffer<UInt64>(count: 8)
            _ = try live.device.prefetch(live.pages)
            precondition(live.firstDifference() == nil && calls == before, "the program's handler is in front")
            ownPage = LiveSignalTests.pageBehindEnd()
            precondition(ownPage!.load(as: UInt8.self) == 0 && calls == before + 1)
            exit(0)
        }
    }

    @Test("a handler that knows nothing of ours is behind it with the next call, as often as it is installed")
    func ignorant() async {
        await #expect(processExitsWith: .success) {
            isChaining = false
            let live = try LiveFixture(pages: 16)
            live.fill()
            for round in 1...20 {
                LiveSignalTests.install()
                _ = try SharedBuffer<UInt64>(count: 8)
                _ = try live.device.prefetch(live.pages)
                precondition(live.firstDifference() == nil && calls == round - 1)
                ownPage = LiveSignalTests.pageBehindEnd()
                precondition(ownPage!.load(as: UInt8.self) == 0 && calls == round)
                if round % 2 == 0 { signal(SIGBUS, SIG_DFL) }
            }
            exit(0)
        }
    }

    @Test("a fault that goes past all of them ends the process")
    func nobodys() async {
        await #expect(processExitsWith: .signal(SIGBUS)) {
            _ = try LiveSpace.shared
            LiveSignalTests.install()
            _ = try SharedBuffer<UInt64>(count: 8)
            let page = LiveSignalTests.pageBehindEnd()
            _ = page.load(as: UInt8.self)
            exit(0)
        }
    }
}
