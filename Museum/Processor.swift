import HMM
import Synchronization

/// A processor that runs one thread at a time and takes it away from nobody: kernel code that does not sleep.
///
/// Threads of a scene run beside each other. Those that share a processor enter it first, and leave it when they sleep.
final class Processor: Sendable {
    private let isTaken = Atomic<Bool>(false)
    private let pending = Atomic<Int>(0)

    func enter() {
        while !take() {
            WaitQueue.wait(on: key) { isTaken.load(ordering: .relaxed) }
        }
    }

    /// False: somebody else has the processor.
    private func take() -> Bool {
        schedulingPoint(.update, on: key)
        return !isTaken.exchange(true, ordering: .acquiring)
    }

    func leave() {
        schedulingPoint(.update, on: key)
        isTaken.store(false, ordering: .releasing)
        WaitQueue.wakeAll(key)
    }

    /// A work item on the queue of this processor: runs when its worker gets the processor.
    /// Called by a program that runs alone.
    func queueWork() { pending.store(1, ordering: .releasing) }

    /// The worker: runs one item.
    func runWork() {
        enter()
        schedulingPoint(.update, on: workKey)
        pending.store(0, ordering: .releasing)
        leave()
        WaitQueue.wakeAll(workKey)
    }

    /// flush_work(): sleeps until the item that was queued has run.
    func flushWork() { WaitQueue.wait(on: workKey) { pending.load(ordering: .acquiring) != 0 } }

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
    private var workKey: UInt { key + 1 }
}
