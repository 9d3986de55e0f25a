import Synchronization

/// Who is told when translations of a range of pages become invalid: usually one mirror of a device.
public protocol IntervalNotifierClient: AnyObject, Sendable {
    /// Translations of `range` become invalid. When this returns true, none that came from before is in use any more:
    /// not in the device's table, not in its TLB, not in an access that is still running.
    ///
    /// Called with the mmap lock, folio locks or reverse-map locks of the actor held. The callback takes the user lock
    /// (only tries it when the range is not blockable, and returns false if it is taken), calls
    /// `notifier.setSequence(sequence)` under it, and clears. It never allocates, never faults, never takes a lock of
    /// the core, and never waits for anything that waits for the actor. A blockable invalidation cannot be refused.
    ///
    /// An event that the client filters out by its owner leaves the sequence alone; the rules are with
    /// `OwnMigrationTracker`.
    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool
}

/// A range of pages of one address space whose invalidations a client wants to know, with the sequence number by which
/// it finds out that what it has read is stale.
///
/// The pattern, in every device fault:
/// ```
/// let sequence = interval.readBegin()          // no lock held, or mmap write
/// … read the CPU's page tables …               // mmap read
/// userLock.lock()
/// if interval.readRetry(sequence) { unlock, again }
/// … write the device's table …
/// userLock.unlock()
/// ```
/// Why it is right: if `readRetry` says no under the user lock, no callback ran since `readBegin`. An invalidation that
/// starts later must take the same user lock, and finds the new entries. One that was already running when `readBegin`
/// returned either had set the interval's number before, then it was the present one and `readBegin` has waited, or
/// does not overlap the interval.
///
/// Kernel: `struct mmu_interval_notifier` (include/linux/mmu_notifier.h, 6.12).
public final class IntervalNotifier: @unchecked Sendable {
    /// Where the interval is; guarded by the lock of `notifiers`.
    enum Membership {
        case insertDeferred
        case inTree
        case removalDeferred
        case removed
    }

    /// Immutable.
    public let pages: PageRange
    /// Immutable. The client removes its intervals before it goes.
    unowned let client: any IntervalNotifierClient
    /// Immutable.
    let notifiers: MMUNotifiers
    /// Immutable; unique in the address space, in the order of insertion.
    let identity: UInt64
    /// Guarded by the lock of `notifiers`.
    var membership: Membership
    /// Written at insertion and under the user lock; read under the user lock, under the lock of `notifiers`, and
    /// lockless as a hint.
    ///
    /// Invariant: INV-NT-3: changes only in the interval's callback, and every value is odd.
    let number: Atomic<UInt64>

    init(
        client: any IntervalNotifierClient, pages: PageRange, notifiers: MMUNotifiers, identity: UInt64,
        insertion: NotifierSequence.Insertion
    ) {
        self.client = client
        self.pages = pages
        self.notifiers = notifiers
        self.identity = identity
        membership = insertion.isDeferred ? .insertDeferred : .inTree
        number = Atomic(insertion.intervalNumber)
    }

    /// Begins a read of CPU page tables: waits until no invalidation that overlaps the interval is running, and returns
    /// the number to give to `readRetry`. The number is odd.
    ///
    /// May wait: hold no lock that an invalidating actor may want (mmap read included). The answer of `readRetry` may
    /// be "again" already when this returns; not looping here lets the caller bound its rounds.
    public func readBegin() -> UInt64 { notifiers.readBegin(self) }

    /// True if what was read since `readBegin` may be stale. Only under the user lock; this is the decision that
    /// counts.
    public func readRetry(_ sequence: UInt64) -> Bool { number.load(ordering: .relaxed) != sequence }

    /// As `readRetry`, without the lock: a hint to stop early. It may miss an invalidation, and never invents one.
    public func checkRetry(_ sequence: UInt64) -> Bool {
        schedulingPoint(.load, on: UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()))
        return number.load(ordering: .relaxed) != sequence
    }

    /// Makes every reader that has begun start over. Only in the callback, under the user lock, with its argument.
    public func setSequence(_ sequence: UInt64) {
        precondition(sequence & 1 == 1, "INV-NT-3: only an invalidation that is running moves an interval's number")
        number.store(sequence, ordering: .relaxed)
    }

    /// Ends the subscription. Waits while a callback of this interval may be running; afterwards none runs or will run.
    ///
    /// Not from a callback, and not with a lock held that a callback takes.
    public func remove() { notifiers.remove(self) }
}
