// Lock order: mmap > driver lock (taken by `commit`). Nothing is held while sleeping for others.

/// How persistent a device fault is.
public struct DeviceFaultPolicy: Sendable {
    /// Rounds with the mmap lock shared, before one with everybody else kept out.
    public var optimisticRounds = 3
    /// The second round comes at once; from then on the pause doubles, with jitter, up to `longestPauseNanoseconds`.
    public var firstPauseNanoseconds: UInt64 = 2_000
    public var longestPauseNanoseconds: UInt64 = 1_000_000
    /// How long the device keeps what it has got against accesses of others; 0 for not at all.
    public var residenceNanoseconds: UInt64 = 0
    /// The party for turns and holds.
    public var owner: NotifierOwner?
    /// Answer EBUSY after so long. Only the test driver wants that: a deadline makes contention an error that no
    /// program can handle.
    public var deadlineNanoseconds: UInt64?
    /// Rounds that are always tried, whatever the clock says: a thread that did not run for a second met no contention.
    static let roundsBeforeDeadline = 32

    public init() {}

    /// Lets the others finish, with no lock held.
    func pause(after rounds: Int) {
        guard rounds > 1 else { return }
        let doubled = firstPauseNanoseconds << UInt64(min(rounds - 2, 20))
        let longest = max(1, min(doubled, longestPauseNanoseconds))
        SyncClock.sleep(nanoseconds: longest / 2 + SyncRandom.next() % (longest / 2 + 1))
    }
}

extension DeviceAddressSpace {
    /// Makes pages available to a device: range fault and commit, repeated until they happened without an invalidation
    /// in between. Answers the number of rounds.
    ///
    /// A few optimistic rounds run beside everybody else. If every one was voided, a pessimistic round excludes all who
    /// change mappings or fault, by the mmap lock for writing and a mark on each VMA (the mmap lock alone does not stop
    /// faults that run under a VMA's lock). What is left then are actors that come by the reverse map, such as reclaim
    /// and folio splits; each gives up or is done after a bounded number of attempts. There is no deadline: as long as
    /// the mapping is valid, contention is no error.
    ///
    /// - Parameters:
    ///   - prepare: called in each round with the mmap lock held; looks mappings up, and may move the range and set
    ///     requests. Nothing that it finds may be carried over to the next round; requests of single pages must be set
    ///     again, as results have taken their place.
    ///   - commit: called with the results, no driver lock held. Takes the driver lock, answers false if
    ///     `range.mustRetry()` (or the driver's own reasons) say so, else writes the mirror's entries and answers true.
    ///
    /// No lock is held by the caller. Errors: those of a range fault, and of `prepare` and `commit`.
    ///
    /// Invariant: INV-FP-1, INV-FP-4.
    public func deviceFault(
        _ range: inout HMMRange, policy: DeviceFaultPolicy = DeviceFaultPolicy(),
        prepare: (inout HMMRange) throws(HMMError) -> Void = { _ in },
        commit: (borrowing HMMRange) throws(HMMError) -> Bool
    ) throws(HMMError) -> Int {
        deliverInvalidations()
        let turn = notifiers.turns.take(range.pages, owner: policy.owner)
        defer { if let turn { notifiers.turns.give(turn) } }
        let deadline = policy.deadlineNanoseconds.map { SyncClock.now() + $0 }
        var rounds = 0
        while true {
            rounds += 1
            if let deadline, rounds > DeviceFaultPolicy.roundsBeforeDeadline, SyncClock.now() > deadline {
                throw HMMError(.busy, "invalidations kept a device fault from finishing")
            }
            let isDone =
                rounds <= policy.optimisticRounds || policy.deadlineNanoseconds != nil
                ? try optimisticRound(&range, prepare, commit) : try pessimisticRound(&range, prepare, commit)
            if isDone { break }
            policy.pause(after: rounds)
        }
        let isSnapshot = range.defaultRequest.isEmpty && range.requestMask.isEmpty
        if !isSnapshot { noteDeviceFault(rounds: rounds, entries: range.pages.pageCount) }
        if policy.residenceNanoseconds > 0, let owner = policy.owner {
            let until = SyncClock.now() + policy.residenceNanoseconds
            notifiers.turns.hold(range.pages, owner: owner, untilNanoseconds: until)
        }
        return rounds
    }

    private func optimisticRound(
        _ range: inout HMMRange, _ prepare: (inout HMMRange) throws(HMMError) -> Void,
        _ commit: (borrowing HMMRange) throws(HMMError) -> Bool
    ) throws(HMMError) -> Bool {
        // Before the mmap lock: this may wait for an actor that waits for it.
        range.sequence = range.interval.readBegin()
        lockMappingsForReading()
        let outcome: RangeFaultOutcome
        do throws(HMMError) {
            try prepare(&range)
            outcome = try rangeFault(&range)
        } catch {
            unlockMappingsForReading()
            throw error
        }
        unlockMappingsForReading()
        return outcome == .done ? try commit(range) : false
    }

    private func pessimisticRound(
        _ range: inout HMMRange, _ prepare: (inout HMMRange) throws(HMMError) -> Void,
        _ commit: (borrowing HMMRange) throws(HMMError) -> Bool
    ) throws(HMMError) -> Bool {
        lockMappingsForWriting()
        defer { unlockMappingsForWriting() }
        try prepare(&range)
        markMappings(range.pages)
        // After the lock: an actor opens its start only with its own locks in hand, so none that is open waits for us.
        range.sequence = range.interval.readBegin()
        return try rangeFault(&range) == .done ? try commit(range) : false
    }
}
