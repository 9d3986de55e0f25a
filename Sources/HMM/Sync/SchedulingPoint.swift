import CLinux

/// The places where the order of threads can matter, as a scheduler sees them.
public enum SchedulingPoint {
    /// What the running thread is about to do. Two steps on one object that are both `isRead` commute.
    public enum Kind: UInt8, Sendable, CaseIterable {
        /// Wait for a lock, exclusively or shared.
        case acquire, acquireShared
        /// Try for a lock without waiting.
        case tryAcquire, tryAcquireShared
        case release, releaseShared
        /// An atomic read, write, or read-modify-write of a shared word. A `load` is also the step of one who counts
        /// itself in or out where only the writers look at the count: two of them commute.
        case load, store, update
        /// Sleep on a wait queue, or wake its sleepers.
        case wait, wake
        case spawn, join
        /// Nothing shared; a place to give way in a loop that waits for others.
        case yield

        /// Whether the step changes nothing that another thread can see.
        public var isRead: Bool { self == .load || self == .yield }
    }
}

/// Announces a step on the shared object at address `object`, before it is made.
///
/// Without a scheduler this is one predictable branch. Under one, other threads may run before the call returns.
///
/// Never reach one (a lock, a wait, a wake is one too) while a stored `var` of a class is being modified in place
/// (`inout`, a `mutating` method) or borrowed (a noncopyable value). Swift keeps the list of such accesses per thread
/// of the system: two virtual threads in accesses to one property trap, and a thread that a scheduler abandons would
/// leave its access in the list. Locks are stored in `let`s, which are not listed.
@inline(__always)
public func schedulingPoint(_ kind: SchedulingPoint.Kind, on object: UInt) {
    if hmm_schedulers_running() != 0 { announce(kind, object) }
}

@inline(never)
func announce(_ kind: SchedulingPoint.Kind, _ object: UInt) {
    precondition(
        (Seam.watchedThread?.pointee.held_mask ?? 0) & LockClass.commuting == 0,
        "a scheduling point inside a critical section that commutes")
    _ = Seam.withScheduler { $0.schedulingPoint(kind, on: object) }
}
