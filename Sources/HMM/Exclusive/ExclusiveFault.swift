// The loop of a device's atomic access: take the page exclusively, commit under the driver lock, again if an
// invalidation came between.
//
// Lock order: mmap > folio (held by the grant) > driver lock (taken by `commit`).

extension AddressSpace {
    /// Takes `page` exclusively for a device and commits the mapping. Answers the number of rounds.
    ///
    /// The first rounds run beside everybody else; after `policy.optimisticRounds` of them one excludes all who change
    /// mappings or fault, as the device fault does. With a residence time in the policy, accesses of others wait so
    /// long before they take the page back; they wait before they take any lock.
    ///
    /// - Parameters:
    ///   - interval: the driver's interval; it covers `page`.
    ///   - policy: its `owner` is whom the page becomes exclusive to.
    ///   - commit: called with the page's frame and the sequence of the round while nobody can take the page back.
    ///     Takes the driver lock; answers false if `interval.readRetry(sequence)`, else stores the mapping and answers
    ///     true.
    ///
    /// No lock is held by the caller. Errors: those of `makeExclusive`, and of `commit`.
    public func exclusiveFault(
        _ page: PageNumber, interval: IntervalNotifier, policy: DeviceFaultPolicy,
        commit: (_ frame: FrameNumber, _ sequence: UInt64) throws(HMMError) -> Bool
    ) throws(HMMError) -> Int {
        guard let owner = policy.owner else {
            throw HMMError(.invalidArgument, "an exclusive access needs an owner")
        }
        let pages = page..<page.advanced(by: 1)
        guard interval.pages.contains(pages) else {
            throw HMMError(.invalidArgument, "the page lies outside the interval")
        }
        let turn = notifiers.turns.take(pages, owner: owner)
        defer { if let turn { notifiers.turns.give(turn) } }
        var rounds = 1
        while try !exclusiveRound(
            page, interval, owner: owner, isPessimistic: rounds > policy.optimisticRounds, commit)
        {
            policy.pause(after: rounds)
            rounds += 1
        }
        noteDeviceFault(rounds: rounds, entries: 1)
        if policy.residenceNanoseconds > 0 {
            let until = SyncClock.now() + policy.residenceNanoseconds
            notifiers.turns.hold(pages, owner: owner, untilNanoseconds: until)
        }
        return rounds
    }

    private func exclusiveRound(
        _ page: PageNumber, _ interval: IntervalNotifier, owner: NotifierOwner, isPessimistic: Bool,
        _ commit: (_ frame: FrameNumber, _ sequence: UInt64) throws(HMMError) -> Bool
    ) throws(HMMError) -> Bool {
        if isPessimistic {
            lockForWriting()
            markWrite(page..<page.advanced(by: 1))
            do throws(HMMError) { try takeBack(page) } catch {
                unlockForWriting()
                throw error
            }
        } else {
            lockForReading()
            defer { unlockForReading() }
            try takeBack(page)
        }
        // Beside others, an invalidation may be waited for only without the lock; with everybody kept out, only with
        // it.
        let sequence = interval.readBegin()
        if !isPessimistic { lockForReading() }
        defer { if isPessimistic { unlockForWriting() } else { unlockForReading() } }
        guard let grant = try attemptExclusive(page, owner: owner) else { return false }
        return try commit(grant.frame, sequence)
    }

    /// Makes a page present that is exclusive to somebody, before the sequence of a round is read.
    ///
    /// A round that fails leaves the page exclusive to nobody's use. The next attempt has to restore it first, and that
    /// restore is an invalidation without an owner, which the caller's own interval hears too: within the round it
    /// would void it, the next one in the same way, and so for ever. `nouveau_atomic_range_fault` (6.12) has this loop.
    private func takeBack(_ page: PageNumber) throws(HMMError) {
        guard leaf(page)?.0.softLeaf?.kind == .deviceExclusive else { return }
        release(try reference(page, .write), [])
    }
}
