import HMM
import Synchronization

/// A work item and its queue: queued by anybody, run by one worker thread, once for each time that it was queued while
/// it did not wait to run already.
///
/// Kernel: struct work_struct with queue_work, flush_work, disable_work_sync (kernel/workqueue.c, 6.12).
final class WorkItem: Sendable {
    private static let queued = 1
    private static let running = 2
    private static let disabled = 4
    private let state = Atomic<Int>(0)
    /// Threads that may still queue the item; the worker ends after the last of them.
    private let clients: Atomic<Int>

    init(clients: Int) { self.clients = Atomic(clients) }

    private var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    /// Asks for one more run. False if the item waits to run already, or is disabled. May be called in a callback.
    func queue() -> Bool {
        schedulingPoint(.update, on: address)
        let now = state.load(ordering: .acquiring)
        guard now & (Self.queued | Self.disabled) == 0 else { return false }
        state.store(now | Self.queued, ordering: .releasing)
        WaitQueue.wakeAll(address)
        return true
    }

    /// Waits until nothing is queued and nothing runs. It can be queued again at once.
    func flush() {
        WaitQueue.wait(on: address) { state.load(ordering: .acquiring) & (Self.queued | Self.running) != 0 }
    }

    /// Takes it off the queue, waits for a run that has begun, and refuses it from now on.
    func disable() {
        schedulingPoint(.update, on: address)
        let now = state.load(ordering: .acquiring)
        state.store(now & ~Self.queued | Self.disabled, ordering: .releasing)
        WaitQueue.wait(on: address) { state.load(ordering: .acquiring) & Self.running != 0 }
    }

    /// The calling thread queues it no more.
    func leave() {
        schedulingPoint(.update, on: address)
        clients.subtract(1, ordering: .acquiringAndReleasing)
        WaitQueue.wakeAll(address)
    }

    /// The worker: runs `body` for each time the item was queued, until all clients have left.
    func serve(_ body: () -> Void) {
        while true {
            WaitQueue.wait(on: address) {
                state.load(ordering: .acquiring) & Self.queued == 0 && clients.load(ordering: .acquiring) > 0
            }
            schedulingPoint(.update, on: address)
            let now = state.load(ordering: .acquiring)
            guard now & Self.queued != 0 else {
                // Disabled since it was queued, or the end.
                if clients.load(ordering: .acquiring) > 0 { continue }
                return
            }
            state.store(now & ~Self.queued | Self.running, ordering: .releasing)
            body()
            schedulingPoint(.update, on: address)
            state.bitwiseAnd(~Self.running, ordering: .acquiringAndReleasing)
            WaitQueue.wakeAll(address)
        }
    }
}
