import HMM

/// What a step does, as far as the order of steps depends on it.
public enum StepKind: UInt8, Sendable, CaseIterable {
    // The first cases have the raw values of `SchedulingPoint.Kind`.
    case acquire, acquireShared, tryAcquire, tryAcquireShared, release, releaseShared
    case load, store, update, wait, wake, spawn, join, yield
    /// The first step of a thread.
    case start
    /// A sleeper goes on after it was woken.
    case resume

    /// How two steps on one object get along: steps of one commuting class may change places.
    enum Conduct: UInt8 {
        /// Touches nothing that others see.
        case apart
        /// Commutes with other reads.
        case read
        /// Commutes with other sharers of a lock, or with others who wake all sleepers.
        case shared
        /// Commutes with nothing.
        case exclusive
    }

    /// Whether the step may leave something else behind than it found, for those who look when nobody holds a lock.
    @inline(__always)
    var changes: Bool { self == .release || self == .update || self == .store }

    /// Whether it takes a lock, tries to, or gives it back.
    var isOfLock: Bool { rawValue <= Self.releaseShared.rawValue }

    @inline(__always)
    var conduct: Conduct {
        switch self {
        case .start, .yield, .spawn: .apart
        case .load: .read
        case .acquireShared, .tryAcquireShared, .releaseShared, .wake: .shared
        default: .exclusive
        }
    }
}

/// One step of a thread: what it announced at its scheduling point, and all it did up to the next one.
public struct Step: Hashable, Sendable {
    public var thread: UInt8
    public var kind: StepKind
    /// What the thread was executing, as `ExplorationScheduler.mark` was told; -1 before that.
    public var mark: Int16
    /// The object, numbered in the order of appearance within the schedule: addresses differ between runs. -1: none.
    public var object: Int32

    /// Whether the order of the two matters when different threads make them.
    @inline(__always)
    static func depend(_ kind: StepKind, _ object: Int32, _ otherKind: StepKind, _ otherObject: Int32) -> Bool {
        guard object == otherObject, object >= 0 else { return false }
        let (a, b) = (kind.conduct, otherKind.conduct)
        if a == .apart || b == .apart { return false }
        return a != b || a == .exclusive
    }
}

/// A set of threads of a schedule, one bit each.
typealias ThreadSet = UInt32

extension ThreadSet {
    @inline(__always) static func only(_ thread: Int) -> ThreadSet { 1 &<< UInt32(truncatingIfNeeded: thread) }
    @inline(__always) func has(_ thread: Int) -> Bool { self & .only(thread) != 0 }
    @inline(__always) var first: Int { trailingZeroBitCount }
}
