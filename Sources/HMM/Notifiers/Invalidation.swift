import Synchronization

/// The time in which somebody takes rights away from CPU entries: from its begin to its end no secondary mapping of the
/// range may be established, and those that there were are gone.
///
/// A value that must be ended exactly once; one that is dropped traps. Invalidations of one actor nest, those of
/// different actors overlap as they like.
///
/// Invariant: INV-AS-10: begun before the first right is lost, ended after the last, never begun under a table lock.
/// Invariant: INV-NT-5.
package struct Invalidation: ~Copyable {
    private enum Kind {
        /// Nobody had subscribed at the begin. A first subscriber waits for the end.
        case unobserved
        case observed(MMUNotifiers.Started)
    }

    package let range: InvalidationRange
    /// The address space outlives all changes to it.
    private let notifiers: Unmanaged<MMUNotifiers>
    private let kind: Kind

    private init(_ notifiers: MMUNotifiers, _ range: InvalidationRange, _ kind: Kind) {
        self.notifiers = .passUnretained(notifiers)
        self.range = range
        self.kind = kind
    }

    /// Begins an invalidation that may wait for the locks of those who have to know.
    ///
    /// Called with any of the mmap, folio, VMA and reverse-map locks held, never with a table lock.
    package static func begin(_ notifiers: MMUNotifiers, _ range: InvalidationRange) -> Invalidation {
        precondition(range.isBlockable, "use tryBegin for an invalidation that must not wait")
        guard let invalidation = tryBegin(notifiers, range) else {
            preconditionFailure("an invalidation that may wait was refused")
        }
        return invalidation
    }

    /// Begins an invalidation, unless it is not blockable and somebody would have to wait: then returns nil, and
    /// everything is as it was. The caller of a refused one answers EAGAIN, or leaves the range out.
    package static func tryBegin(_ notifiers: MMUNotifiers, _ range: InvalidationRange) -> Invalidation? {
        // INV-AS-10: also when nobody listens, this is where a table lock that is held is noticed.
        LockOrder.willAcquire(.subscriptions, notifiers.address)
        schedulingPoint(.load, on: notifiers.address)
        guard notifiers.isObserved.load(ordering: .acquiring) else {
            // Everybody counts itself in and out; only a first subscriber looks at the count.
            schedulingPoint(.load, on: notifiers.unobservedKey)
            notifiers.unobserved.add(1, ordering: .sequentiallyConsistent)
            // A first subscriber sets the flag before it looks at the count: one of us sees the other.
            if !notifiers.isObserved.load(ordering: .sequentiallyConsistent) {
                return Invalidation(notifiers, range, .unobserved)
            }
            notifiers.leaveUnobserved()
            return observed(notifiers, range)
        }
        return observed(notifiers, range)
    }

    private static func observed(_ notifiers: MMUNotifiers, _ range: InvalidationRange) -> Invalidation? {
        guard let started = notifiers.start(range) else { return nil }
        return Invalidation(notifiers, range, .observed(started))
    }

    /// The change is made: translations may be established again.
    package consuming func end() {
        let notifiers = notifiers
        switch kind {
        case .unobserved: notifiers._withUnsafeGuaranteedRef { $0.leaveUnobserved() }
        case .observed(let started): notifiers._withUnsafeGuaranteedRef { $0.end(range, started) }
        }
        discard self
    }

    deinit { Self.trapDropped() }

    /// Not typed `Never`, or the compiler takes the destruction of the rest for dead code and warns.
    private static func trapDropped() { preconditionFailure("an invalidation was begun and never ended") }
}

extension MMUNotifiers {
    /// An invalidation that nobody had to hear of is over.
    func leaveUnobserved() {
        schedulingPoint(.load, on: unobservedKey)
        let remaining = unobserved.subtract(1, ordering: .sequentiallyConsistent).newValue
        if remaining == 0, isObserved.load(ordering: .sequentiallyConsistent) { WaitQueue.wakeAll(unobservedKey) }
    }
}
