import Synchronization

extension MMUNotifiers {
    /// Subscribes `client` to the invalidations of `pages`.
    ///
    /// May wait for invalidations that started while nobody had subscribed. Errors: EOVERFLOW for an empty range or
    /// one that ends behind the last page a byte address can name, EINVAL when the address space has no user any more.
    ///
    /// Kernel: mmu_interval_notifier_insert (mm/mmu_notifier.c, 6.12).
    public func insert(
        _ client: any IntervalNotifierClient, over pages: PageRange
    ) throws(HMMError) -> IntervalNotifier {
        guard !pages.isEmpty, pages.upperBound.raw <= 1 << (64 - Geometry.pageShift) else {
            throw HMMError(.overflow, "the range of an interval notifier is empty or too large")
        }
        subscribe()
        lock.lock()
        guard hasUsers else {
            lock.unlock()
            throw HMMError(.invalidArgument, "the address space has no user any more")
        }
        subscriberCount.add(1, ordering: .relaxed)
        let insertion = sequence.insert()
        // Inserting while others are between start and end makes them touch this interval.
        publishedNumber.store(sequence.number, ordering: .releasing)
        let interval = IntervalNotifier(
            client: client, pages: pages, notifiers: self, identity: makeIdentityLocked(), insertion: insertion)
        if insertion.isDeferred {
            deferred.append(interval)
        } else {
            tree.insert(interval, pages: pages, identity: interval.identity)
        }
        lock.unlock()
        return interval
    }

    func remove(_ interval: IntervalNotifier) {
        lock.lock()
        switch interval.membership {
        case .removalDeferred, .removed: preconditionFailure("an interval notifier was removed twice")
        case .inTree, .insertDeferred: subscriberCount.subtract(1, ordering: .relaxed)
        }
        switch sequence.remove(isInsertDeferred: interval.membership == .insertDeferred) {
        case .fromTree:
            removeFromTreeLocked(interval)
            lock.unlock()
        case .fromDeferredInserts:
            deferred.removeAll { $0 === interval }
            interval.membership = .removed
            lock.unlock()
        case .deferred(while: let number):
            interval.membership = .removalDeferred
            deferred.append(interval)
            lock.unlock()
            waitWhile(number: number)
        }
    }

    func readBegin(_ interval: IntervalNotifier) -> UInt64 {
        lock.lock()
        let number = interval.number.load(ordering: .relaxed)
        let isInvalidating = sequence.isInvalidating(intervalNumber: number)
        lock.unlock()
        if isInvalidating { waitWhile(number: number) }
        return number
    }

    /// Waits until the sequence has another number than this one.
    private func waitWhile(number: UInt64) {
        WaitQueue.wait(on: sequenceKey) { publishedNumber.load(ordering: .acquiring) == number }
    }
}
