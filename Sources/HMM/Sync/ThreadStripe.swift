import CLinux

/// Which part of a divided structure the running thread uses: counters and caches that every thread touches all the
/// time are kept several times, so that processors do not take one cache line from each other.
///
/// A hint: two threads may share a stripe, and a thread may look into any.
enum ThreadStripe {
    /// Stripes of a structure. A power of two.
    static let count = 8

    /// The stripe of the running thread. Always 0 under a scheduler, where one thread runs at a time and the choice
    /// must not depend on how many threads there were before.
    @inline(__always)
    static var current: Int { Int(hmm_thread_number()) & (count - 1) }
}
