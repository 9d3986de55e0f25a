import Synchronization

/// Lets any number of ordinary calls into a mirror, or one call that may not wait.
///
/// A call that may not block must refuse before it changes anything, and its range may have many directories, each with
/// a lock of its own. So it takes the whole mirror, if nobody is inside; then each directory lock is free.
final class MirrorGate: Sendable {
    private static let alone = UInt32(1) << 31
    private let state = Atomic<UInt32>(0)

    /// Waits while a call is alone inside. The caller must not hold a directory lock.
    func enter() {
        // Ordinary calls count themselves in and out; only who wants to be alone looks at the count.
        schedulingPoint(.load, on: waitKey)
        while true {
            let seen = state.load(ordering: .relaxed)
            if seen & Self.alone != 0 {
                WaitQueue.wait(on: waitKey) { state.load(ordering: .relaxed) & Self.alone != 0 }
            } else if state.compareExchange(expected: seen, desired: seen + 1, ordering: .acquiring).exchanged {
                return
            }
        }
    }

    func leave() {
        schedulingPoint(.load, on: waitKey)
        _ = state.subtract(1, ordering: .releasing)
    }

    func tryEnterAlone() -> Bool {
        schedulingPoint(.update, on: waitKey)
        return state.compareExchange(expected: 0, desired: Self.alone, ordering: .acquiring).exchanged
    }

    func leaveAlone() {
        schedulingPoint(.update, on: waitKey)
        state.store(0, ordering: .releasing)
        WaitQueue.wakeAll(waitKey)
    }

    /// Whether a call is inside.
    var isOccupied: Bool { state.load(ordering: .relaxed) != 0 }

    var waitKey: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
