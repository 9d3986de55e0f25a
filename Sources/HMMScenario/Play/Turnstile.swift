import HMM
import Synchronization

/// A mutex of the player. It stands outside the lock order of the core, because it is held around whole calls into it;
/// the core knows nothing of it and never calls back while holding a lock of its own.
final class Turnstile: Sendable {
    /// 1 while somebody is inside.
    private let isTaken = Atomic<UInt32>(0)

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    func with<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        lock()
        defer { unlock() }
        return try body()
    }

    private func lock() {
        schedulingPoint(.acquire, on: key)
        while !isTaken.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged {
            WaitQueue.wait(on: key) { isTaken.load(ordering: .relaxed) == 1 }
        }
    }

    private func unlock() {
        schedulingPoint(.release, on: key)
        isTaken.store(0, ordering: .releasing)
        _ = WaitQueue.wakeOne(key)
    }
}

/// Counts who is inside, until it is shut: then nobody enters any more, and whoever shut it waits for the rest to
/// leave.
final class Gate: Sendable {
    private static let shut: UInt64 = 1 << 63
    /// The number of those inside, and `shut`.
    private let state = Atomic<UInt64>(0)

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    /// False when the gate is shut.
    ///
    /// Those who enter and leave do not get in each other's way; only the one who shuts the gate gets in theirs, so for
    /// an order of threads they read and he writes.
    func enter() -> Bool {
        schedulingPoint(.load, on: key)
        let old = state.add(1, ordering: .acquiring).oldValue
        if old & Self.shut == 0 { return true }
        leave()
        return false
    }

    func leave() {
        schedulingPoint(.load, on: key)
        let new = state.subtract(1, ordering: .releasing).newValue
        if new == Self.shut { WaitQueue.wakeAll(key) }
    }

    /// False when somebody else shut it before.
    func shutAndWait() -> Bool {
        schedulingPoint(.update, on: key)
        let old = state.bitwiseOr(Self.shut, ordering: .acquiringAndReleasing).oldValue
        guard old & Self.shut == 0 else { return false }
        WaitQueue.wait(on: key) { state.load(ordering: .acquiring) != Self.shut }
        return true
    }
}
