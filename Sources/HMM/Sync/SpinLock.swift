import CLinux
import Synchronization

/// A lock of four bytes for critical sections of a few instructions.
///
/// It may live in raw memory, one a page table. It spins briefly and then parks: on a virtual machine with few
/// processors the holder may not be running. Not FIFO: a thread that comes along may overtake a woken one.
public struct SpinLock: ~Copyable, Sendable {
    private static let locked: UInt32 = 1
    private static let hasSleepers: UInt32 = 2
    private static let spins = 40

    /// Bit 0: locked. Bit 1: somebody sleeps or is about to. Bits 24…31: rank of the class, constant.
    private let state: Atomic<UInt32>

    public init(_ lockClass: LockClass) { state = Atomic(UInt32(lockClass.rank) << 24) }

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
        return state.load(ordering: .relaxed) & Self.locked == 0 && takeFast()
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

    /// The class the lock was made with.
    public var lockClass: LockClass { LockClass(rank: UInt8(state.load(ordering: .relaxed) >> 24)) }

    /// The name of the lock in queues and traces.
    @inline(__always)
    public var address: UInt { withUnsafePointer(to: state) { UInt(bitPattern: $0) } }

    @inline(__always)
    private func takeFast() -> Bool { state.bitwiseOr(Self.locked, ordering: .acquiring).oldValue & Self.locked == 0 }

    @inline(__always)
    private func release() {
        if state.subtract(Self.locked, ordering: .releasing).oldValue & Self.hasSleepers != 0 { wakeSleeper() }
    }

    @inline(never)
    private func lockSlow() {
        var ticket: UInt64 = 0
        var turns = 0
        while true {
            let now = state.load(ordering: .relaxed)
            if now & Self.locked == 0 {
                if takeFast() { return }
                continue
            }
            if now & Self.hasSleepers == 0 {
                if turns < Self.spins, hmm_thread_current_virtual() == nil {
                    turns += 1
                    hmm_cpu_pause()
                    continue
                }
                let marked = now | Self.hasSleepers
                if !state.compareExchange(expected: now, desired: marked, ordering: .relaxed).exchanged { continue }
            }
            let both = Self.locked | Self.hasSleepers
            _ = WaitQueue.park(on: address, tag: 0, ticket: &ticket) { state.load(ordering: .relaxed) & both == both }
            turns = 0
        }
    }

    @inline(never)
    private func wakeSleeper() {
        var isFirst = true
        _ = WaitQueue.unpark(
            address,
            admit: { _ in
                defer { isFirst = false }
                return isFirst
            },
            commit: { areMoreLeft in
                if !areMoreLeft { state.bitwiseAnd(~Self.hasSleepers, ordering: .relaxed) }
            })
    }

    @inline(never)
    private func lockWatched() {
        let (address, lockClass) = (address, lockClass)
        if !lockClass.commutes { schedulingPoint(.acquire, on: address) }
        LockOrder.willAcquire(lockClass, address)
        if !takeFast() { lockSlow() }
        LockOrder.acquired(lockClass, address)
    }

    @inline(never)
    private func tryLockWatched() -> Bool {
        let (address, lockClass) = (address, lockClass)
        if !lockClass.commutes { schedulingPoint(.tryAcquire, on: address) }
        guard state.load(ordering: .relaxed) & Self.locked == 0 && takeFast() else { return false }
        LockOrder.acquired(lockClass, address)
        return true
    }

    @inline(never)
    private func unlockWatched() {
        let (address, lockClass) = (address, lockClass)
        if !lockClass.commutes { schedulingPoint(.release, on: address) }
        precondition(isLocked, "unlock of a spin lock that nobody holds")
        LockOrder.released(lockClass, address)
        release()
    }
}
