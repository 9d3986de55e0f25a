import Synchronization

/// Grace periods: when no reader that could still see an unlinked directory is left.
///
/// Readers enter and leave; a section is a handful of loads and never waits. The phase moves on only when no reader of
/// the phase before is left, so what was unlinked in phase p has no reader any more in phase p + 2. Whoever frees looks
/// whether the phase can move instead of waiting for it: an invalidation callback must not wait for readers.
///
/// ```
/// reader                                 whoever frees
/// enter: readers[p] += 1
///        phase is still p? (else again)
///                                        unlink X, note p
///        read slot: X or nothing         readers[p-1] == 0 → phase := p + 1
///        use X
/// leave: readers[p] -= 1                 readers[p] == 0 → phase := p + 2, free X
/// ```
final class MirrorEpoch: Sendable {
    private let phase = Atomic<UInt64>(2)
    private let evenReaders = Atomic<Int>(0)
    private let oddReaders = Atomic<Int>(0)
    /// Threads that wait for readers to leave.
    private let waiters = Atomic<Int>(0)

    var current: UInt64 { phase.load(ordering: .sequentiallyConsistent) }

    private func readers(in phase: UInt64) -> Int {
        phase & 1 == 0
            ? evenReaders.load(ordering: .sequentiallyConsistent) : oddReaders.load(ordering: .sequentiallyConsistent)
    }

    private func add(_ n: Int, in phase: UInt64) -> Int {
        phase & 1 == 0
            ? evenReaders.add(n, ordering: .sequentiallyConsistent).newValue
            : oddReaders.add(n, ordering: .sequentiallyConsistent).newValue
    }

    /// Begins a section; the answer goes to `leave`.
    ///
    /// The loop ends: each further turn means that the phase moved, and it moves only when somebody frees.
    func enter() -> UInt64 {
        while true {
            schedulingPoint(.load, on: waitKey)
            let seen = current
            // Readers count themselves in and out; only `advance` looks at how many there are.
            schedulingPoint(.load, on: waitKey)
            _ = add(1, in: seen)
            if current == seen { return seen }
            leave(seen)
        }
    }

    func leave(_ phase: UInt64) {
        schedulingPoint(.load, on: waitKey)
        if add(-1, in: phase) == 0, waiters.load(ordering: .sequentiallyConsistent) != 0 {
            WaitQueue.wakeAll(waitKey)
        }
    }

    /// Announces that the phase is to be moved on.
    func willAdvance() { schedulingPoint(.update, on: waitKey) }

    /// Announces that the phase is to be noted with something that was unlinked.
    func willNote() { schedulingPoint(.load, on: waitKey) }

    /// Moves the phase on if no reader of the phase before is left. The caller holds the lock that guards the lists of
    /// what is to be freed, and has announced the step (`willAdvance`) before it took it.
    func advance() -> Bool {
        let seen = current
        guard readers(in: seen &- 1) == 0 else { return false }
        phase.store(seen &+ 1, ordering: .sequentiallyConsistent)
        return true
    }

    /// Waits until `advance` can succeed. Not in an invalidation.
    func waitForReaders() {
        _ = waiters.add(1, ordering: .sequentiallyConsistent)
        WaitQueue.wait(on: waitKey) { readers(in: current &- 1) != 0 }
        _ = waiters.subtract(1, ordering: .sequentiallyConsistent)
    }

    private var waitKey: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
