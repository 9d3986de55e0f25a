import CLinux

/// The one place where the core asks whether somebody schedules it.
///
/// A global word counts the schedulers that run; while it is zero every primitive takes its real path after one
/// predictable branch. When it is not, the thread-local record of the running thread says whether *this* thread is a
/// virtual one. Several threads of the system may each run a scheduler; threads without one behave as always.
enum Seam {
    /// Whether a primitive must leave its fast path: a scheduler runs somewhere, or every lock is watched.
    @inline(__always)
    static var isWatching: Bool {
        #if HMM_INVARIANT_CHECKS
            return true
        #else
            return hmm_schedulers_running() != 0
        #endif
    }

    /// The record of this thread if its locks are watched.
    @inline(__always)
    static var watchedThread: UnsafeMutablePointer<hmm_thread>? {
        #if HMM_INVARIANT_CHECKS
            return hmm_thread_current()
        #else
            return hmm_schedulers_running() == 0 ? nil : hmm_thread_current_virtual()
        #endif
    }

    /// Calls `body` with the scheduler of this thread, if it has one. The reference is borrowed: no ARC traffic.
    @inline(__always)
    static func withScheduler<R>(_ body: (Scheduler) -> R) -> R? {
        guard hmm_schedulers_running() != 0, let thread = hmm_thread_current_virtual(),
            let scheduler = thread.pointee.scheduler
        else { return nil }
        return Unmanaged<Scheduler>.fromOpaque(scheduler)._withUnsafeGuaranteedRef(body)
    }
}
