import Synchronization

// Lock order: any of mmap, folio, VMA mark, reverse map > `MMUNotifiers.lock` (never held across a callback)
//           > the user locks of the clients, taken inside their callbacks.

/// Everybody who wants to know what happens to the translations of one address space.
///
/// There are two kinds of subscriptions. An *interval notifier* covers a range of pages, has one callback, and a
/// sequence number that lets a device fault find out that it raced (`IntervalNotifier`). A *list notifier* hears of the
/// start and the end of every invalidation of the address space (`ListNotifier`). Whoever takes a right away from a
/// CPU entry wraps the change into an `Invalidation`.
///
/// Kernel: `struct mmu_notifier_subscriptions` (mm/mmu_notifier.c, 6.12).
public final class MMUNotifiers: @unchecked Sendable {
    /// What `remove` and `insert` put off while the tree is frozen; the interval's membership says which it is.
    /// Guarded by `lock`, in the order of the calls.
    var deferred: ContiguousArray<IntervalNotifier> = []
    /// Guarded by `lock`; read without it by an invalidation that has touched an interval, because then it is frozen.
    ///
    /// Invariant: INV-NT-2: does not change while the sequence is odd.
    var tree = IntervalTree<IntervalNotifier>()
    /// Guarded by `lock`, in the order of registration.
    var list: ContiguousArray<ListNotifier> = []
    /// Guarded by `lock`.
    var sequence = NotifierSequence()
    /// Guarded by `lock`. False after `release`: nobody may subscribe any more.
    var hasUsers = true
    /// Guarded by `lock`.
    private var lastIdentity: UInt64 = 0
    /// Guarded by `lock`: 0 or 1, to which of the two counters below an invalidation belongs that starts now.
    var epoch = 0

    let lock = SpinLock(.subscriptions)

    /// The sequence's number, for those who wait for it to change: written under `lock`.
    let publishedNumber = Atomic<UInt64>(2)
    /// Invalidations that are running, by the epoch in which they started, 32 bits for each: written under `lock`, read
    /// by a registration that waits for those that have started before it.
    let runningByEpoch = Atomic<UInt64>(0)

    /// True from the first subscription on, for ever. Set before it waits for `unobserved` to become zero.
    let isObserved = Atomic<Bool>(false)
    /// Invalidations that have started while there was no subscription, and that nobody needs to hear about. They are
    /// counted only so that the first subscriber can wait for them.
    let unobserved = Atomic<Int>(0)

    /// Interval notifiers that nobody has removed. Changes under `lock`; for a look at what is left over.
    let subscriberCount = Atomic<Int>(0)

    /// Invalidations that somebody might have heard of, and callbacks made; for summaries, not for decisions.
    package let startCount = Atomic<UInt64>(0)
    package let callbackCount = Atomic<UInt64>(0)

    /// Minimum residence of pages at devices, and turns of those who wait for them.
    public let turns = ResidenceTurns()

    public init() {}

    /// Differs from Linux: 6.12 stops the whole machine's reverse-map actors when the first subscriber comes
    /// (mm_take_all_locks). Here an actor that saw nobody counts itself, and the subscriber waits for those alone.
    ///
    /// Actors that have started never wait for the mmap lock, so the caller may hold it.
    func subscribe() {
        schedulingPoint(.store, on: address)
        isObserved.store(true, ordering: .sequentiallyConsistent)
        WaitQueue.wait(on: unobservedKey) { unobserved.load(ordering: .sequentiallyConsistent) != 0 }
    }

    /// Caller holds `lock`.
    func makeIdentityLocked() -> UInt64 {
        lastIdentity += 1
        return lastIdentity
    }

    // Keys of the wait queues: the object's address, told apart in the low bits.
    var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
    /// Whether no invalidation that somebody hears of is under way. For a look at a moment when nobody moves.
    package var isQuiet: Bool { lock.withLock { sequence.running == 0 } }

    var sequenceKey: UInt { address }
    var unobservedKey: UInt { address + 1 }
    var epochKey: UInt { address + 2 }
}

// MARK: - Start and end

extension MMUNotifiers {
    /// What an invalidation has to remember from its start to its end.
    struct Started {
        var epoch: Int
        /// List notifiers that were registered later are not told of the end: they did not hear of the start.
        var lastIdentity: UInt64
        var hasListNotifiers: Bool
    }

    /// Tells everybody that translations of `range` become invalid. Returns nil, with everything as it was, when the
    /// range is not blockable and somebody would have to block.
    ///
    /// Invariant: INV-NT-5. Differs from Linux: when a list notifier refuses, 6.12 leaves the intervals' part started
    /// for ever. Here a start is all or nothing.
    func start(_ range: InvalidationRange) -> Started? {
        lock.lock()
        let started = startLocked(range)
        lock.unlock()
        startCount.add(1, ordering: .relaxed)
        guard invalidateIntervals(range, sequence: started.number) else {
            leave(epoch: started.state.epoch)
            return nil
        }
        guard !started.state.hasListNotifiers || startList(range, started.state) else {
            leave(epoch: started.state.epoch)
            return nil
        }
        return started.state
    }

    func end(_ range: InvalidationRange, _ started: Started) {
        leave(epoch: started.epoch)
        if started.hasListNotifiers { endList(range, started) }
    }

    /// The last user of the address space is gone: everybody drops everything, and nobody subscribes any more.
    ///
    /// Called once, before the address space's pages are freed. Callers that still hold intervals remove them later.
    public func release() {
        let everything = InvalidationRange(.release, PageNumber(0)..<PageNumber(UInt64.max))
        lock.lock()
        precondition(hasUsers, "an address space was released twice")
        hasUsers = false
        let started = startLocked(everything)
        lock.unlock()
        _ = invalidateIntervals(everything, sequence: started.number)
        releaseList()
        leave(epoch: started.state.epoch)
    }

    /// Nobody uses the address space any more.
    public var isReleased: Bool { lock.withLock { !hasUsers } }

    /// Caller holds `lock`.
    private func startLocked(_ range: InvalidationRange) -> (state: Started, number: UInt64) {
        let number = sequence.start(touchesInterval: tree.overlaps(range.pages))
        publishedNumber.store(number, ordering: .releasing)
        runningByEpoch.add(Self.one(in: epoch), ordering: .relaxed)
        let state = Started(epoch: epoch, lastIdentity: lastIdentity, hasListNotifiers: !list.isEmpty)
        return (state, number)
    }

    /// Calls the intervals that overlap. The tree is frozen if there is one, so it is walked without the lock.
    /// Returns false if one of them refused.
    private func invalidateIntervals(_ range: InvalidationRange, sequence number: UInt64) -> Bool {
        // An even number: none overlapped, and the tree is not frozen.
        guard number & 1 == 1 else { return true }
        var next = tree.first(overlapping: range.pages)
        while let (key, interval) = next {
            callbackCount.add(1, ordering: .relaxed)
            if !interval.client.invalidate(interval, range, sequence: number) {
                precondition(!range.isBlockable, "a callback refused an invalidation that may block")
                return false
            }
            next = tree.first(overlapping: range.pages, after: key)
        }
        return true
    }

    /// The intervals' part of an end.
    private func leave(epoch: Int) {
        lock.lock()
        let action = sequence.end()
        if action == .thaw {
            applyDeferredLocked()
            // Last: who removes an interval looks at the number without the lock, and returns when it has changed.
            publishedNumber.store(sequence.number, ordering: .releasing)
        }
        runningByEpoch.subtract(Self.one(in: epoch), ordering: .releasing)
        let isEpochOver = !isAnyRunning(in: epoch)
        lock.unlock()
        if action == .thaw { WaitQueue.wakeAll(sequenceKey) }
        if isEpochOver { WaitQueue.wakeAll(epochKey) }
    }

    private static func one(in epoch: Int) -> UInt64 { 1 << UInt64(32 * epoch) }

    func isAnyRunning(in epoch: Int) -> Bool {
        UInt32(truncatingIfNeeded: runningByEpoch.load(ordering: .acquiring) >> UInt64(32 * epoch)) != 0
    }

    /// Caller holds `lock`; the tree is no longer frozen.
    private func applyDeferredLocked() {
        for interval in deferred {
            switch interval.membership {
            case .insertDeferred:
                tree.insert(interval, pages: interval.pages, identity: interval.identity)
                interval.membership = .inTree
            case .removalDeferred:
                removeFromTreeLocked(interval)
            case .inTree, .removed:
                preconditionFailure("an interval was put off that has nothing to wait for")
            }
        }
        deferred.removeAll(keepingCapacity: true)
    }

    /// Caller holds `lock`.
    func removeFromTreeLocked(_ interval: IntervalNotifier) {
        let removed = tree.remove(pages: interval.pages, identity: interval.identity)
        precondition(removed === interval, "an interval was not in the tree")
        interval.membership = .removed
    }
}
