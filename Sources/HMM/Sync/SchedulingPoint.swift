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
        /// An atomic read, write, or read-modify-write of a shared word.
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
/// Without a scheduler this is one predictable branch. Under one, other threads may run before the call returns. Never
/// call it inside an `inout` or modify access to a class property: two virtual threads in such accesses to one
/// property are an exclusivity violation, as they would be on two threads of the system.
@inline(__always)
public func schedulingPoint(_ kind: SchedulingPoint.Kind, on object: UInt) {
    if hmm_schedulers_running() != 0 { announce(kind, object) }
}

@inline(never)
func announce(_ kind: SchedulingPoint.Kind, _ object: UInt) {
    _ = Seam.withScheduler { $0.schedulingPoint(kind, on: object) }
}
