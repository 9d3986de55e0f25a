import CLinux

/// Runs virtual threads on one thread of the system and decides at every scheduling point who goes on.
///
/// The core calls the `open` methods from the running virtual thread. A subclass answers by switching to another
/// virtual thread or by returning. The rules between the two:
///
/// - `schedulingPoint` may switch; it returns when the thread is chosen again.
/// - `block` is called with the thread already in its queue. It must switch away and return only after `unblock` named
///   the thread. If no thread can run, that is a deadlock, which the subclass reports from its own context; the blocked
///   threads are abandoned, and what their stacks refer to leaks; `VirtualThread.discard` saves the stacks.
/// - `finished` is the last call of a thread. It does not switch: it answers who goes on, so that all frames of the
///   finished thread return first. The scheduler keeps both threads alive until then.
/// - `unblock` only marks; it never switches. Threads are named in the order in which they slept (FIFO).
/// - `spawn` makes a runnable virtual thread and may switch.
/// - Time stands still but for `sleep`: a sleeping thread runs again when `now` has reached its time.
/// - `lockOrderViolation` notes the finding and may return: the thread then takes the lock all the same.
/// - The methods run on the stack of the virtual thread; they use no lock, wait queue or clock of this folder.
/// - Keys and objects are addresses: equal within a run, arbitrary between runs.
///
/// A `RoundRobinScheduler` is the smallest complete example.
///
/// Schedulers of several threads of the system are independent of each other and must not share locks.
open class Scheduler {
    /// The waiters of all keys, in the order of their arrival. Touched by this scheduler's thread only.
    final let parked: UnsafeMutablePointer<hmm_bucket>

    public init() {
        parked = .allocate(capacity: 1)
        parked.initialize(to: hmm_bucket())
    }

    deinit { parked.deallocate() }

    /// A virtual thread is about to make a step of `kind` on `object`.
    open func schedulingPoint(_ kind: SchedulingPoint.Kind, on object: UInt) { unimplemented() }
    /// The running thread sleeps on `key` until `unblock` names it.
    open func block(on key: UInt) { unimplemented() }
    /// The thread with number `index` may run again.
    open func unblock(_ index: Int) { unimplemented() }
    /// A new virtual thread that runs `body`.
    open func spawn(name: String, _ body: @escaping () -> Void) { unimplemented() }
    /// The running thread's body has returned. Answers the thread that goes on, or nil for the thread of the system, as
    /// after `leave`.
    open func finished(_ index: Int) -> VirtualThread? { unimplemented() }
    /// Virtual time in nanoseconds.
    open func now() -> UInt64 { unimplemented() }
    /// The running thread does not run before `now() + nanoseconds`.
    open func sleep(nanoseconds: UInt64) { unimplemented() }
    /// The next random number of the run.
    open func random() -> UInt64 { unimplemented() }
    /// The running thread breaks the lock order.
    open func lockOrderViolation(_ violation: LockOrderViolation) { unimplemented() }

    /// Runs `body`, which switches to virtual threads, with the primitives of the core looking for schedulers.
    public final func whileInstalled<R>(_ body: () -> R) -> R {
        hmm_scheduler_count_add(1)
        defer {
            // Sleepers that are left belong to threads that were abandoned.
            parked.pointee = hmm_bucket()
            hmm_scheduler_count_add(-1)
        }
        return body()
    }

    private final func unimplemented() -> Never { preconditionFailure("a scheduler overrides every method") }
}
