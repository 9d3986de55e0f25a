import Synchronization

/// Who hears of every invalidation of an address space, from its start to its end. Between the two, the entries of the
/// range may be anything.
///
/// The sets of start and end calls of different actors overlap as they like; those of one actor nest and pair.
public protocol ListNotifierClient: AnyObject, Sendable {
    /// Translations of the range become invalid. Only a client that was registered as `refusable` may answer false, and
    /// only when the range is not blockable.
    func invalidationStarts(_ range: InvalidationRange) -> Bool
    /// The change is made. Never called for a client that was registered as `refusable`.
    func invalidationEnds(_ range: InvalidationRange)
    /// The address space is gone, or the subscription is. Called exactly once.
    func released()
    /// Whether the pages were used through this client since they were last cleared, and clears that, also where
    /// translations are cached.
    func clearAndFlushYoung(_ pages: PageRange) -> Bool
    /// As `clearAndFlushYoung`, without the caches: a hint for reclaim.
    func clearYoung(_ pages: PageRange) -> Bool
    func isYoung(_ page: PageNumber) -> Bool
}

extension ListNotifierClient {
    public func invalidationStarts(_ range: InvalidationRange) -> Bool { true }
    public func invalidationEnds(_ range: InvalidationRange) {}
    public func released() {}
    public func clearAndFlushYoung(_ pages: PageRange) -> Bool { false }
    public func clearYoung(_ pages: PageRange) -> Bool { false }
    public func isYoung(_ page: PageNumber) -> Bool { false }
}

/// How a client takes part in starts and ends.
public enum ListNotifierStyle: Sendable {
    /// Hears of start and end, and never refuses a start.
    case paired
    /// Hears of starts only, and may refuse one that must not block. Nobody could tell such a client of the end of a
    /// start that another one refused.
    case refusable
}

/// A subscription to all invalidations of an address space.
///
/// Kernel: `struct mmu_notifier` (include/linux/mmu_notifier.h, 6.12).
public final class ListNotifier: @unchecked Sendable {
    /// Immutable. The client unregisters before it goes.
    unowned let client: any ListNotifierClient
    /// Immutable.
    let style: ListNotifierStyle
    /// Immutable; grows in the order of registration.
    let identity: UInt64
    /// Guarded by the lock of the `MMUNotifiers`.
    var isReleased = false
    /// Callbacks that are running. Raised under the lock of the `MMUNotifiers`, while registered.
    let callbacksRunning = Atomic<Int>(0)

    init(client: any ListNotifierClient, style: ListNotifierStyle, identity: UInt64) {
        self.client = client
        self.style = style
        self.identity = identity
    }

    var callbackKey: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    /// A callback has returned.
    func leaveCallback() {
        if callbacksRunning.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
            WaitQueue.wakeAll(callbackKey)
        }
    }
}

extension MMUNotifiers {
    /// Registers `client` for all invalidations. Afterwards no invalidation is running that it has not heard of.
    ///
    /// May wait for actors that are between start and end; they never wait for the mmap lock, so the caller may hold
    /// it. Error: EINVAL when the address space has no user any more.
    public func register(
        _ client: any ListNotifierClient, style: ListNotifierStyle = .paired
    ) throws(HMMError) -> ListNotifier {
        subscribe()
        lock.lock()
        guard hasUsers else {
            lock.unlock()
            throw HMMError(.invalidArgument, "the address space has no user any more")
        }
        let notifier = ListNotifier(client: client, style: style, identity: makeIdentityLocked())
        list.append(notifier)
        lock.unlock()
        waitForRunningInvalidations()
        return notifier
    }

    /// Ends the subscription. Waits for callbacks of it that are running; afterwards none runs or will run. Calls
    /// `released` unless that has happened. Not from a callback.
    public func unregister(_ notifier: ListNotifier) {
        lock.lock()
        list.removeAll { $0 === notifier }
        let mustRelease = !notifier.isReleased
        notifier.isReleased = true
        lock.unlock()
        WaitQueue.wait(on: notifier.callbackKey) { notifier.callbacksRunning.load(ordering: .acquiring) != 0 }
        if mustRelease { notifier.client.released() }
    }

    /// Whether the pages were used through any list notifier's mappings, which are then no longer young.
    package func clearAndFlushYoung(_ pages: PageRange) -> Bool { anyInList { $0.clearAndFlushYoung(pages) } }
    package func clearYoung(_ pages: PageRange) -> Bool { anyInList { $0.clearYoung(pages) } }
    package func isYoung(_ page: PageNumber) -> Bool { anyInList { $0.isYoung(page) } }

    /// Waits until every invalidation that has started before now has ended.
    ///
    /// Each flip sends those that start from then on to the other counter, so that the old one can run dry. Two
    /// flips, because another registration that is waiting at the same time may have left stragglers in either.
    private func waitForRunningInvalidations() {
        for _ in 0..<2 {
            lock.lock()
            let old = epoch
            epoch = 1 - old
            lock.unlock()
            WaitQueue.wait(on: epochKey) { isAnyRunning(in: old) }
        }
    }

    // MARK: - The list's part of start, end and release

    /// Returns false if somebody refused; those that had not are then told of the end.
    func startList(_ range: InvalidationRange, _ started: Started) -> Bool {
        var isRefused = false
        forEachInList(upTo: started.lastIdentity) { notifier in
            if notifier.client.invalidationStarts(range) { return }
            precondition(
                !range.isBlockable && notifier.style == .refusable,
                "a list notifier refused an invalidation that it may not refuse")
            isRefused = true
        }
        if isRefused { endList(range, started) }
        return !isRefused
    }

    /// Whoever may refuse is never told of an end, so it does not matter who did.
    func endList(_ range: InvalidationRange, _ started: Started) {
        forEachInList(upTo: started.lastIdentity) { notifier in
            if notifier.style == .paired { notifier.client.invalidationEnds(range) }
        }
    }

    func releaseList() {
        lock.lock()
        let last = list.last?.identity ?? 0
        lock.unlock()
        forEachInList(upTo: last) { notifier in
            lock.lock()
            let mustRelease = !notifier.isReleased
            notifier.isReleased = true
            lock.unlock()
            if mustRelease { notifier.client.released() }
        }
        lock.lock()
        list.removeAll { $0.isReleased }
        lock.unlock()
    }

    private func anyInList(_ query: (any ListNotifierClient) -> Bool) -> Bool {
        guard isObserved.load(ordering: .acquiring) else { return false }
        var isAny = false
        forEachInList(upTo: UInt64.max) { if query($0.client) { isAny = true } }
        return isAny
    }

    /// Calls `body` without the lock for each notifier, in the order of registration. One that is unregistered
    /// meanwhile is either not visited, or its unregistration waits.
    private func forEachInList(upTo last: UInt64, _ body: (ListNotifier) -> Void) {
        var previous: UInt64 = 0
        while true {
            lock.lock()
            let next = list.first { $0.identity > previous && $0.identity <= last }
            next?.callbacksRunning.add(1, ordering: .relaxed)
            lock.unlock()
            guard let next else { return }
            callbackCount.add(1, ordering: .relaxed)
            body(next)
            previous = next.identity
            next.leaveCallback()
        }
    }
}
