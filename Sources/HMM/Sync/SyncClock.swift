import CLinux

/// Time: monotonic nanoseconds of the system, or of the scheduler.
public enum SyncClock {
    public static func now() -> UInt64 { Seam.withScheduler { $0.now() } ?? hmm_clock_now() }

    /// Returns when at least `nanoseconds` have passed.
    public static func sleep(nanoseconds: UInt64) {
        if Seam.withScheduler({ $0.sleep(nanoseconds: nanoseconds) }) == nil { hmm_clock_sleep(nanoseconds) }
    }
}

/// Random numbers for jitter, of the running thread or of its scheduler. Not for secrets.
enum SyncRandom {
    /// The next number: that of the scheduler's run, or of a generator of this thread.
    static func next() -> UInt64 {
        if let value = Seam.withScheduler({ $0.random() }) { return value }
        let thread = hmm_thread_current()
        if thread.pointee.random == 0 { seed(hmm_clock_now() ^ UInt64(UInt(bitPattern: thread))) }
        return SplitMix.next(&thread.pointee.random)
    }

    /// Starts the sequence of this thread anew.
    static func seed(_ seed: UInt64) { hmm_thread_current().pointee.random = seed == 0 ? 1 : seed }
}

/// Steele, Lea and Flood's SplitMix64: one word of state, every seed good.
package enum SplitMix {
    @inline(__always)
    package static func next(_ state: inout UInt64) -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z &>> 31)
    }
}
