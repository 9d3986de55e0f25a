import CLinux
import Synchronization

/// A thread: of the system, or virtual if it is spawned under a scheduler.
public final class SyncThread: Sendable {
    private static let stackBytes = 4 << 20

    /// For people, debuggers and traces; the system keeps 15 bytes of it.
    public let name: String
    private let body: @Sendable () -> Void
    /// 1 when the body has returned. Sleepers wait on its address.
    private let finished = Atomic<UInt32>(0)
    /// The handle of a thread of the system that nobody has joined yet, or 0.
    private let handle = Atomic<UInt64>(0)

    private init(name: String, body: @Sendable @escaping () -> Void) {
        self.name = name
        self.body = body
    }

    /// Starts a thread that runs `body`.
    public static func spawn(name: String, _ body: @Sendable @escaping () -> Void) -> SyncThread {
        schedulingPoint(.spawn, on: 0)
        let thread = SyncThread(name: name, body: body)
        if Seam.withScheduler({ $0.spawn(name: name) { thread.run() } }) != nil { return thread }
        var handle: UInt64 = 0
        let argument = Unmanaged.passRetained(thread)
        let error = hmm_thread_start(
            &handle, name, stackBytes,
            { argument in
                if let argument { Unmanaged<SyncThread>.fromOpaque(argument).takeRetainedValue().run() }
                return nil
            }, argument.toOpaque())
        // In words in release builds too: it is the user's limits, not a mistake of the caller.
        guard error == 0 else { fatalError("the system has no thread for us: errno \(error)") }
        thread.handle.store(handle, ordering: .releasing)
        return thread
    }

    deinit {
        let handle = handle.load(ordering: .acquiring)
        if handle != 0 { hmm_thread_detach(handle) }
    }

    /// Waits until the body has returned.
    public func join() {
        schedulingPoint(.join, on: address)
        WaitQueue.wait(on: address) { finished.load(ordering: .acquiring) == 0 }
        let handle = handle.exchange(0, ordering: .acquiringAndReleasing)
        if handle != 0 { hmm_thread_join(handle) }
    }

    /// Whether the body has returned.
    public var isFinished: Bool { finished.load(ordering: .acquiring) != 0 }

    /// The number of locks that the calling thread holds, as far as it is watched (`LockOrder`): 0 when nothing was
    /// left behind.
    package static var heldLockCount: Int { Seam.watchedThread.map { Int($0.pointee.held_total) } ?? 0 }

    /// A number of the calling thread that no other running one has.
    package static var identity: UInt { UInt(bitPattern: hmm_thread_current()) }

    /// Lets other threads run, in a loop that waits for one of them.
    public static func yield() {
        if Seam.withScheduler({ $0.schedulingPoint(.yield, on: 0) }) == nil { hmm_thread_yield() }
    }

    private var address: UInt { withUnsafePointer(to: finished) { UInt(bitPattern: $0) } }

    private func run() {
        body()
        finished.store(1, ordering: .releasing)
        WaitQueue.wakeAll(address)
    }
}
