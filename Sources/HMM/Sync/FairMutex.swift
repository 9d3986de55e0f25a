import CLinux
import Synchronization

/// A mutual exclusion that is handed on in the order of arrival.
///
/// An uncontended pair of calls is two atomic operations. With sleepers, `unlock` gives the lock to the first of them
/// while it stays locked, so nobody overtakes.
public struct FairMutex: ~Copyable, Sendable {
    private static let free: UInt32 = 0
    private static let locked: UInt32 = 1
    private static let hasSleepers: UInt32 = 2
    private static let spins = 40

    /// Bit 0: locked. Bit 1: somebody sleeps or is about to; only with bit 0. Cleared under the bucket's lock only.
    private let state: Atomic<UInt32>
    /// Immutable.
    public let lockClass: LockClass

    public init(_ lockClass: LockClass) {
        state = Atomic(Self.free)
        self.lockClass = lockClass
    }

    /// Waits for the lock.
    @inline(__always)
    public func lock() {
        if Seam.isWatching { return lockWatched() }
        if !takeFast() { lockSlow() }
    }

    /// Takes the lock if it is free. Never waits, so the lock order does not matter.
    @inline(__always)
    public func tryLock() -> Bool {
        if Seam.isWatching { return tryLockWatched() }
        return takeFast()
    }

    @inline(__always)
    public func unlock() {
        if Seam.isWatching { return unlockWatched() }
        release()
    }

    /// Runs `body` with the lock held.
    @inline(__always)
    public func withLock<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        lock()
        defer { unlock() }
        return try body()
    }

    /// Whether somebody holds the lock at this moment.
    public var isLocked: Bool { state.load(ordering: .relaxed) & Self.locked != 0 }

    /// The name of the lock in queues and traces.
    @inline(__always)
    public var address: UInt { withUnsafePointer(to: state) { UInt(bitPattern: $0) } }

    @inline(__always)
    private func takeFast() -> Bool {
        state.compareExchange(expected: Self.free, desired: Self.locked, ordering: .acquiring).exchanged
    }

    @inline(__always)
    private func release() {
        if !state.compareExchange(
            expected: Self.locked, desired: Self.free, successOrdering: .releasing, failureOrdering: .relaxed
        ).exchanged { handOn() }
    }

    @inline(never)
    private func lockSlow() {
        var ticket: UInt64 = 0
        var turns = 0
        let both = Self.locked | Self.hasSleepers
        while true {
            let now = state.load(ordering: .relaxed)
            if now == Self.free {
                if takeFast() { return }
                continue
            }
            if now == Self.locked {
                if turns < Self.spins, hmm_thread_current_virtual() == nil {
                    turns += 1
                    hmm_cpu_pause()
                    continue
                }
                if !state.compareExchange(expected: now, desired: both, ordering: .relaxed).exchanged { continue }
            }
            // Woken means handed on: the lock is ours.
            let isOurs = WaitQueue.park(on: address, tag: 0, ticket: &ticket) {
                state.load(ordering: .relaxed) == both
            }
            if isOurs { return }
        }
    }

    /// Gives the lock to the first sleeper, or frees it if the sleeper had only been about to sleep.
    @inline(never)
    private func handOn() {
        var isFree = true
        _ = WaitQueue.unpark(
            address,
            admit: { _ in
                defer { isFree = false }
                return isFree
            },
            commit: { areMoreLeft in
                // The bucket's lock orders this store before the sleeper's next load of anything.
                let next = isFree ? Self.free : areMoreLeft ? Self.locked | Self.hasSleepers : Self.locked
                state.store(next, ordering: .releasing)
            })
    }

    @inline(never)
    private func lockWatched() {
        let address = address
        schedulingPoint(.acquire, on: address)
        LockOrder.willAcquire(lockClass, address)
        if !takeFast() { lockSlow() }
        LockOrder.acquired(lockClass, address)
    }

    @inline(never)
    private func tryLockWatched() -> Bool {
        schedulingPoint(.tryAcquire, on: address)
        guard takeFast() else { return false }
        LockOrder.acquired(lockClass, address)
        return true
    }

    @inline(never)
    private func unlockWatched() {
        schedulingPoint(.release, on: address)
        precondition(isLocked, "unlock of a mutex that nobody holds")
        LockOrder.released(lockClass, address)
        release()
    }
}
