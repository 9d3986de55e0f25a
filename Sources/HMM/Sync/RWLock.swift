import CLinux
import Synchronization

/// A lock that readers share, fair in the order of arrival.
///
/// A reader that arrives after a waiting writer waits behind it, so writers are not starved; when a writer leaves, all
/// readers before the next writer come in together. For the same reason a thread never takes the read lock twice: a
/// writer in between would wait for the first and block the second.
public struct RWLock: ~Copyable, Sendable {
    private static let writer: UInt32 = 1
    private static let hasSleepers: UInt32 = 2
    private static let oneReader: UInt32 = 4
    private static let spins = 40
    /// Tags of sleepers.
    private static let wantsRead: UInt32 = 0
    private static let wantsWrite: UInt32 = 1

    /// Bit 0: a writer holds the lock. Bit 1: somebody sleeps or is about to; nobody comes in past him. From bit 2: the
    /// number of readers that hold the lock. Bit 1 is cleared under the bucket's lock only, and without holders it
    /// means that the last of them is about to hand the lock on.
    private let state: Atomic<UInt32>
    /// Immutable.
    public let lockClass: LockClass

    public init(_ lockClass: LockClass) {
        state = Atomic(0)
        self.lockClass = lockClass
    }

    /// Waits until the lock can be shared.
    @inline(__always)
    public func lockRead() {
        if Seam.isWatching { return lockWatched(.acquireShared, nested: false) }
        if !takeRead() { lockSlow(Self.wantsRead) }
    }

    /// Shares the lock unless a writer holds it or anybody waits. Never waits, so the lock order does not matter.
    @inline(__always)
    public func tryLockRead() -> Bool {
        if Seam.isWatching { return tryLockWatched(.tryAcquireShared) }
        return takeRead()
    }

    @inline(__always)
    public func unlockRead() {
        if Seam.isWatching { return unlockWatched(.releaseShared) }
        releaseRead()
    }

    /// Waits until nobody else holds the lock.
    @inline(__always)
    public func lockWrite() {
        if Seam.isWatching { return lockWatched(.acquire, nested: false) }
        if !takeWrite() { lockSlow(Self.wantsWrite) }
    }

    /// As `lockWrite`, holding one lock of the same class that is known to stand outside this one (fork: the lock of
    /// the child inside that of the parent).
    @inline(__always)
    public func lockWriteNested() {
        if Seam.isWatching { return lockWatched(.acquire, nested: true) }
        if !takeWrite() { lockSlow(Self.wantsWrite) }
    }

    /// Takes the lock if nobody holds it. Never waits, so the lock order does not matter.
    @inline(__always)
    public func tryLockWrite() -> Bool {
        if Seam.isWatching { return tryLockWatched(.tryAcquire) }
        return takeWrite()
    }

    @inline(__always)
    public func unlockWrite() {
        if Seam.isWatching { return unlockWatched(.release) }
        releaseWrite()
    }

    /// Goes from writing to reading without letting another writer in between.
    public func downgrade() {
        schedulingPoint(.release, on: address)
        precondition(isWriteLocked, "downgrade of a lock that no writer holds")
        if !state.compareExchange(
            expected: Self.writer, desired: Self.oneReader, successOrdering: .releasing, failureOrdering: .relaxed
        ).exchanged { handOn(keeping: Self.oneReader) }
    }

    /// Runs `body` with the lock shared.
    @inline(__always)
    public func withRead<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        lockRead()
        defer { unlockRead() }
        return try body()
    }

    /// Runs `body` with the lock held exclusively.
    @inline(__always)
    public func withWrite<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        lockWrite()
        defer { unlockWrite() }
        return try body()
    }

    /// Whether anybody holds the lock at this moment, in either way.
    public var isLocked: Bool { state.load(ordering: .relaxed) & ~Self.hasSleepers != 0 }
    /// Whether a writer holds the lock at this moment.
    public var isWriteLocked: Bool { state.load(ordering: .relaxed) & Self.writer != 0 }

    /// The name of the lock in queues and traces.
    @inline(__always)
    public var address: UInt { withUnsafePointer(to: state) { UInt(bitPattern: $0) } }

    @inline(__always)
    private func takeRead() -> Bool {
        var now = state.load(ordering: .relaxed)
        while now & (Self.writer | Self.hasSleepers) == 0 {
            let result = state.weakCompareExchange(
                expected: now, desired: now &+ Self.oneReader, successOrdering: .acquiring, failureOrdering: .relaxed)
            if result.exchanged { return true }
            now = result.original
        }
        return false
    }

    @inline(__always)
    private func takeWrite() -> Bool {
        state.compareExchange(expected: 0, desired: Self.writer, ordering: .acquiring).exchanged
    }

    @inline(__always)
    private func releaseRead() {
        // Acquiring too: the last reader hands on for those that left before it.
        let old = state.subtract(Self.oneReader, ordering: .acquiringAndReleasing).oldValue
        if old == Self.oneReader | Self.hasSleepers { handOn(keeping: 0) }
    }

    @inline(__always)
    private func releaseWrite() {
        if !state.compareExchange(
            expected: Self.writer, desired: 0, successOrdering: .releasing, failureOrdering: .relaxed
        ).exchanged { handOn(keeping: 0) }
    }

    @inline(never)
    private func lockSlow(_ wish: UInt32) {
        var ticket: UInt64 = 0
        var turns = 0
        while true {
            if wish == Self.wantsRead ? takeRead() : takeWrite() { return }
            let now = state.load(ordering: .relaxed)
            if now & Self.hasSleepers == 0 {
                if turns < Self.spins, hmm_thread_current_virtual() == nil {
                    turns += 1
                    hmm_cpu_pause()
                    continue
                }
                let isHeldAgainstUs = wish == Self.wantsRead ? now & Self.writer != 0 : now != 0
                guard isHeldAgainstUs else { continue }
                let marked = now | Self.hasSleepers
                if !state.compareExchange(expected: now, desired: marked, ordering: .relaxed).exchanged { continue }
            }
            // Woken means handed on: the lock is ours. As long as bit 1 is set somebody will look into the queue.
            let isOurs = WaitQueue.park(on: address, tag: wish, ticket: &ticket) {
                state.load(ordering: .relaxed) & Self.hasSleepers != 0
            }
            if isOurs { return }
        }
    }

    /// Gives the lock to the first sleepers: a writer, or all readers before the next writer. `kept` is what the caller
    /// goes on holding; a reader that stays admits readers only.
    @inline(never)
    private func handOn(keeping kept: UInt32) {
        var holders = kept
        _ = WaitQueue.unpark(
            address,
            admit: { wish in
                if wish == Self.wantsRead {
                    guard holders & Self.writer == 0 else { return false }
                    holders += Self.oneReader
                } else {
                    guard holders == 0 else { return false }
                    holders = Self.writer
                }
                return true
            },
            commit: { areMoreLeft in
                state.store(areMoreLeft ? holders | Self.hasSleepers : holders, ordering: .releasing)
            })
    }

    @inline(never)
    private func lockWatched(_ kind: SchedulingPoint.Kind, nested: Bool) {
        let address = address
        schedulingPoint(kind, on: address)
        LockOrder.willAcquire(lockClass, address, nested: nested)
        if kind == .acquireShared {
            if !takeRead() { lockSlow(Self.wantsRead) }
        } else {
            if !takeWrite() { lockSlow(Self.wantsWrite) }
        }
        LockOrder.acquired(lockClass, address)
    }

    @inline(never)
    private func tryLockWatched(_ kind: SchedulingPoint.Kind) -> Bool {
        schedulingPoint(kind, on: address)
        guard kind == .tryAcquireShared ? takeRead() : takeWrite() else { return false }
        LockOrder.acquired(lockClass, address)
        return true
    }

    @inline(never)
    private func unlockWatched(_ kind: SchedulingPoint.Kind) {
        schedulingPoint(kind, on: address)
        LockOrder.released(lockClass, address)
        if kind == .releaseShared {
            precondition(state.load(ordering: .relaxed) >= Self.oneReader, "unlockRead of a lock that no reader holds")
            releaseRead()
        } else {
            precondition(isWriteLocked, "unlockWrite of a lock that no writer holds")
            releaseWrite()
        }
    }
}
