// The loop of a device's atomic access: take the page exclusively, commit under the driver lock, again if an
// invalidation came between.
//
// Lock order: mmap > folio (held by the grant) > driver lock (taken by `commit`).

/// An address space whose pages a device can have for itself.
public protocol ExclusiveGranting: DeviceAddressSpace {
    /// One attempt to make the page exclusive. Nil: it changed meanwhile, and the caller tries again. The mmap lock is
    /// held. Errors: those of `AddressSpace.makeExclusive`; on live memory also `.busy` for a page that is pinned.
    func attemptExclusive(_ page: PageNumber, owner: NotifierOwner) throws(HMMError) -> ExclusiveGrant?

    /// Takes pages exclusively in the way of 6.12 (see `AddressSpace.makeExclusiveBatch`). The mmap lock is held.
    func makeExclusiveBatch(_ pages: PageRange) throws(HMMError) -> ExclusiveBatch

    /// Makes those pages present again that are exclusive to a device, as a CPU's access would. The mmap lock is held.
    func restoreExclusive(_ pages: PageRange) throws(HMMError)
}

extension ExclusiveGranting {
    /// Takes back every page of the range that is exclusive to a device. No lock is held.
    public func takeBackExclusive(_ pages: PageRange) throws(HMMError) {
        lockMappingsForReading()
        defer { unlockMappingsForReading() }
        try restoreExclusive(pages)
    }


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

    /// One round. What is exclusive is restored before the sequence is read.
    ///
    /// A round that fails leaves the page exclusive to nobody's use. The next attempt has to restore it first, and that
    /// restore is an invalidation without an owner, which the caller's own interval hears too: within the round it
    /// would void it, the next one in the same way, and so for ever. `nouveau_atomic_range_fault` (6.12) has this loop.
    private func exclusiveRound(
        _ page: PageNumber, _ interval: IntervalNotifier, owner: NotifierOwner, isPessimistic: Bool,
        _ commit: (_ frame: FrameNumber, _ sequence: UInt64) throws(HMMError) -> Bool
    ) throws(HMMError) -> Bool {
        if isPessimistic {
            lockMappingsForWriting()
            markMappings(page..<page.advanced(by: 1))
            do throws(HMMError) { try restoreExclusive(page..<page.advanced(by: 1)) } catch {
                unlockMappingsForWriting()
                throw error
            }
        } else {
            lockMappingsForReading()
            defer { unlockMappingsForReading() }
            try restoreExclusive(page..<page.advanced(by: 1))
        }
        // Beside others, an invalidation may be waited for only without the lock; with everybody kept out, only with
        // it.
        let sequence = interval.readBegin()
        if !isPessimistic { lockMappingsForReading() }
        defer { if isPessimistic { unlockMappingsForWriting() } else { unlockMappingsForReading() } }
        guard let grant = try attemptExclusive(page, owner: owner) else { return false }
        return try commit(grant.frame, sequence)
    }
}
