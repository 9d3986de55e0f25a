/// The sequence number of an address space's interval notifiers: the decisions, without locks and without effects.
///
/// The number is even while nobody invalidates anything that an interval covers, and odd otherwise. Two facts make up
/// the state: the parity, and how many invalidations are running at all.
///
/// | running | number | meaning |
/// | --- | --- | --- |
/// | 0 | even | idle |
/// | > 0 | even | somebody invalidates, but no interval was touched: the tree may change |
/// | > 0 | odd | some interval was touched: the tree is frozen, changes are put off |
/// | 0 | odd | never |
///
/// Kernel: `struct mmu_notifier_subscriptions` and mn_itree_inv_start_range, mn_itree_inv_end,
/// __mmu_interval_notifier_insert, mmu_interval_notifier_remove (mm/mmu_notifier.c, 6.12).
package struct NotifierSequence: Hashable, Sendable {
    /// Invariant: INV-NT-1: never decreases, and is odd only while `running` is positive.
    package private(set) var number: UInt64 = 2
    /// Invalidations between their start and their end, including those that touch no interval.
    private(set) var running = 0

    /// Invariant: INV-NT-2: while this holds, the interval tree does not change.
    package var isFrozen: Bool { number & 1 == 1 }

    package init() {}

    /// An invalidation starts. Returns the number that its callbacks must store in their intervals.
    ///
    /// An odd phase that is already running is joined: overlapping invalidations share one number.
    package mutating func start(touchesInterval: Bool) -> UInt64 {
        running += 1
        if touchesInterval { number |= 1 }
        return number
    }

    /// What has to happen after an end.
    package enum EndAction: Hashable {
        case nothing
        /// The odd phase is over: apply what was put off, then wake everyone who waits for the number to change.
        case thaw
    }

    package mutating func end() -> EndAction {
        precondition(running > 0, "an invalidation ended that had not started")
        running -= 1
        guard running == 0, isFrozen else { return .nothing }
        number += 1
        return .thaw
    }

    /// How an interval comes in.
    struct Insertion: Hashable {
        /// The tree is frozen: the interval enters it when the phase ends.
        var isDeferred: Bool
        /// The number that the interval starts with. Always odd.
        ///
        /// Invariant: INV-NT-3. If invalidations are running that did not see the interval, it is the present number,
        /// so that a reader waits for them; else it is one of the past, which no present number ever equals.
        var intervalNumber: UInt64
    }

    mutating func insert() -> Insertion {
        guard running > 0 else { return Insertion(isDeferred: false, intervalNumber: number - 1) }
        let isDeferred = isFrozen
        number |= 1
        return Insertion(isDeferred: isDeferred, intervalNumber: number)
    }

    /// How an interval leaves.
    enum Removal: Hashable {
        case fromTree
        /// It never got into the tree; nobody can have called it.
        case fromDeferredInserts
        /// A callback of it may be running. It leaves when the phase ends, and the remover waits until the number is
        /// no longer this one.
        case deferred(while: UInt64)
    }

    func remove(isInsertDeferred: Bool) -> Removal {
        guard isFrozen else {
            precondition(!isInsertDeferred, "an insert was left over when the tree thawed")
            return .fromTree
        }
        return isInsertDeferred ? .fromDeferredInserts : .deferred(while: number)
    }

    /// True if a reader of an interval that has `intervalNumber` must wait before it reads anything.
    func isInvalidating(intervalNumber: UInt64) -> Bool { intervalNumber == number }
}
