import Synchronization

extension MMUNotifiers {
    /// What is wrong; empty when nothing is. No invalidation may be running.
    package func checkInvariants() -> [String] {
        lock.lock()
        defer { lock.unlock() }
        var problems = tree.checkInvariants()
        if sequence.running != 0 { problems.append("INV-NT-5: \(sequence.running) invalidations have no end") }
        if unobserved.load(ordering: .relaxed) != 0 { problems.append("INV-NT-5: an invalidation has no end") }
        if sequence.isFrozen { problems.append("INV-NT-1: the sequence is odd and nobody invalidates") }
        if publishedNumber.load(ordering: .relaxed) != sequence.number {
            problems.append("INV-NT-1: waiters see another sequence number than there is")
        }
        if isAnyRunning(in: 0) || isAnyRunning(in: 1) {
            problems.append("INV-NT-5: an epoch counts an invalidation that has ended")
        }
        if !deferred.isEmpty { problems.append("INV-NT-2: \(deferred.count) changes of the tree are left over") }
        var next = tree.first(overlapping: PageNumber(0)..<PageNumber(UInt64.max))
        while let (key, interval) = next {
            let number = interval.number.load(ordering: .relaxed)
            if number & 1 == 0 { problems.append("INV-NT-3: an interval has the even number \(number)") }
            if number >= sequence.number { problems.append("INV-NT-3: an interval has a number of the future") }
            if interval.membership != .inTree { problems.append("INV-NT-2: an interval in the tree is not a member") }
            next = tree.first(overlapping: PageNumber(0)..<PageNumber(UInt64.max), after: key)
        }
        return problems
    }

    /// Subscriptions that are left, for leak checks.
    package var subscriptionCount: Int {
        lock.lock()
        defer { lock.unlock() }
        return tree.count + deferred.count + list.count
    }
}
