import CLinux
import Synchronization

/// A counter by which lockless readers notice that a writer was at work.
///
///     let start = count.readBegin()
///     …                                   // atomic (relaxed) reads of the protected words
///     if count.readRetry(start) { … }     // what was read may be torn: again
///
/// Writers exclude each other by a lock of their own.
public struct SequenceCount: ~Copyable, Sendable {
    /// How often a reader looks again before it lets other threads of the system run.
    private static let spins = 40

    /// Odd while a writer is at work. Written under the lock of the writers.
    private let sequence = Atomic<UInt32>(0)

    public init() {}

    /// Waits until no writer is at work; returns the number to give to `readRetry`.
    public func readBegin() -> UInt32 {
        schedulingPoint(.load, on: address)
        var turns = 0
        while true {
            let now = sequence.load(ordering: .acquiring)
            if now & 1 == 0 { return now }
            if hmm_thread_current_virtual() != nil {
                WaitQueue.wait(on: address) { sequence.load(ordering: .relaxed) == now }
            } else if turns < Self.spins {
                turns += 1
                hmm_cpu_pause()
            } else {
                hmm_thread_yield()
            }
        }
    }

    /// Whether a writer was at work since `readBegin` returned `start`.
    public func readRetry(_ start: UInt32) -> Bool {
        schedulingPoint(.load, on: address)
        atomicMemoryFence(ordering: .acquiring)
        return sequence.load(ordering: .relaxed) != start
    }

    /// The caller holds the lock of the writers.
    public func writeBegin() {
        schedulingPoint(.store, on: address)
        let now = sequence.load(ordering: .relaxed)
        precondition(now & 1 == 0, "two writers of a sequence count")
        sequence.store(now &+ 1, ordering: .relaxed)
        atomicMemoryFence(ordering: .releasing)
    }

    public func writeEnd() {
        schedulingPoint(.store, on: address)
        let now = sequence.load(ordering: .relaxed)
        precondition(now & 1 == 1, "end without begin of a sequence count")
        sequence.store(now &+ 1, ordering: .releasing)
        if hmm_schedulers_running() != 0, hmm_thread_current_virtual() != nil { WaitQueue.wakeAll(address) }
    }

    /// The number at this moment.
    public var current: UInt32 { sequence.load(ordering: .relaxed) }

    @inline(__always)
    package var address: UInt { withUnsafePointer(to: sequence) { UInt(bitPattern: $0) } }
}
