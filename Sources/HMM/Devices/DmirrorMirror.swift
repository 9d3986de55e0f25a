import Synchronization

/// An open mirror of the reference driver: the device's view of one address space.
///
/// Requests may come from any number of threads. They work in chunks of 64 pages, counted from the start of the request
/// or of its retry.
///
/// Lock order: mmap > `mutex` > the table's own locks. No request sleeps for others with `mutex` held.
public final class DmirrorMirror: IntervalNotifierClient, @unchecked Sendable {
    /// Pages of one chunk.
    static let chunkPages = 64
    /// 6.12's test driver gives up after a second.
    private static let deadlineNanoseconds: UInt64 = 1_000_000_000

    // Immutable.
    public let device: DmirrorDevice
    let space: any MigratingAddressSpace
    let owner: NotifierOwner
    /// The user lock: guards what is in `table`, and decides `readRetry`.
    let mutex = FairMutex(.driver)
    /// Page → frame, with the tags read, write and atomic.
    ///
    /// Invariant: INV-DM-3: an entry's frame has the bytes that the CPU sees at that page.
    /// Invariant: INV-DM-4, INV-DM-5.
    let table: FlatMirror
    /// Own migrations in progress. Guarded by `mutex`.
    let migrations = OwnMigrationTracker()
    /// Moves of this mirror that are under way. Guarded by `mutex`.
    var moves = OwnMoves()
    /// Set once by `start`, before the mirror is handed out.
    private(set) var interval: IntervalNotifier!
    /// No request and no check of its entries begins once this is false.
    let isOpen = Atomic<Bool>(true)

    init(device: DmirrorDevice, space: any MigratingAddressSpace, owner: NotifierOwner) {
        self.device = device
        self.space = space
        self.owner = owner
        let noteWrite: @Sendable (MirrorRun) -> Void = { [weak space] run in
            space?.noteDeviceWrite(run.pages, firstFrame: run.firstFrame)
        }
        table = FlatMirror(
            onConflict: .replace,
            effects: MirrorEffects(reportDirty: device.warts.contains(.writesStayClean) ? nil : noteWrite),
            mayAllocate: { [injector = device.machine.faultInjector] in !injector.shouldFail(.directory) })
    }

    deinit { precondition(!isOpen.load(ordering: .relaxed) || interval == nil, "an open mirror was dropped") }

    /// Subscribes over the whole address space.
    func start() throws(HMMError) {
        interval = try space.notifiers.insert(self, over: PageNumber(0)..<Geometry.endPage)
    }

    /// Closes the mirror: no callback runs afterwards. The device's memory goes home, that of this address space or
    /// (W5) of everybody, as far as it can be had; exclusive pages stay so until a CPU touches them. Not from a
    /// callback; no request may be under way. Requests answer ENODEV from now on; nothing happens the second time.
    public func close() {
        guard isOpen.exchange(false, ordering: .acquiringAndReleasing) else { return }
        interval.remove()
        // Before anything moves: nobody is told of that any more, and what was written is noted for the frame where it
        // stands.
        mutex.withLock { _ = table.invalidate(interval.pages, keeping: .nothingAndPrune, isBlockable: true) }
        if device.warts.contains(.closeEvictsEverybody) {
            _ = device.machine.evictAll(of: device.memory)
        } else if !space.notifiers.isReleased {
            _ = try? space.evict(interval.pages, from: device.memory, owner: nil) { _ throws(HMMError) in }
        }
        device.forget(self)
    }

    /// The process is a forked child, and the mirror is its parent's, which goes on using it. Here it goes without a
    /// trace: nothing moves, and no other mirror hears of it. Called before the child does anything else.
    package func abandon() {
        let wasOpen = isOpen.exchange(false, ordering: .acquiringAndReleasing)
        precondition(wasOpen, "a closed mirror was abandoned")
        interval.remove()
        device.forget(self)
        mutex.withLock { _ = table.invalidate(interval.pages, keeping: .nothingAndPrune, isBlockable: true) }
    }

    // MARK: Invalidation

    public func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        // Own migrations are ordered by `migrations`; their entries stay until they are replaced. What this mirror
        // makes exclusive keeps its frame; an own event that was not filtered would void each round that it belongs to.
        if range.event == .migrate || range.event == .exclusive, range.owner == owner { return true }
        if range.isBlockable {
            mutex.lock()
        } else if !mutex.tryLock() {
            return false
        }
        defer { mutex.unlock() }
        notifier.setSequence(sequence)
        moves.note(range.pages)
        var pages = range.pages
        // W2: 6.12 shifts the end down to a page number and takes it as included.
        if device.warts.contains(.erasesPageBehind), pages.upperBound < Geometry.endPage {
            pages = pages.lowerBound..<pages.upperBound.advanced(by: 1)
        }
        // Under `mutex` nobody else is in the table, so this cannot be refused.
        return table.invalidate(pages, keeping: .nothing, isBlockable: range.isBlockable)
    }

    // MARK: Faults

    /// Makes the pages available to the device, chunk by chunk. Errors: EFAULT, EPERM, EBUSY after a second, ENOMEM.
    func fault(_ pages: PageRange, write: Bool) throws(HMMError) {
        guard !space.notifiers.isReleased else { throw HMMError(.badAddress, "the address space is gone") }
        var range = HMMRange(
            interval, pages.lowerBound..<pages.lowerBound, capacity: min(pages.pageCount, Self.chunkPages))
        range.defaultRequest = HMMPageRequest(for: write ? .write : .read)
        range.ownMemory = device.memory
        var first = pages.lowerBound
        while first < pages.upperBound {
            let end = min(first.advanced(by: Self.chunkPages), pages.upperBound)
            range.retarget(first..<end)
            var rounds = 0
            while let refused = try faultChunk(&range, write: write) {
                if device.warts.contains(.ownReadOnlyPagesStaySo) {
                    throw HMMError(.badAddress, "a page of the device's own memory may only be read")
                }
                // It comes home, where the next write fault gives the right, or a copy, or says why not.
                _ = try evict(refused)
                rounds += 1
                policy.pause(after: rounds)
            }
            first = end
        }
    }

    /// Optimistic rounds only, for a second.
    var policy: DeviceFaultPolicy {
        var policy = DeviceFaultPolicy()
        policy.owner = owner
        policy.deadlineNanoseconds = Self.deadlineNanoseconds
        return policy
    }

    /// Answers the first pages that stayed read-only although they were to be written.
    private func faultChunk(_ range: inout HMMRange, write: Bool) throws(HMMError) -> PageRange? {
        var generation: UInt64 = 0
        var isOwnMigration = false
        var refused: PageRange?
        _ = try space.deviceFault(
            &range, policy: policy,
            prepare: { (_: inout HMMRange) throws(HMMError) in
                generation = migrations.generation
                isOwnMigration = false
            },
            commit: { (range: borrowing HMMRange) throws(HMMError) -> Bool in
                mutex.lock()
                if range.mustRetry() {
                    mutex.unlock()
                    return false
                }
                if migrations.mustRetryLocked(range.pages, since: generation) {
                    isOwnMigration = migrations.isMigratingLocked(range.pages)
                    mutex.unlock()
                    if isOwnMigration { migrations.waitForEnd(since: generation) }
                    return false
                }
                defer { mutex.unlock() }
                refused = try store(range, write: write)
                return true
            })
        return refused
    }

    /// Stores what a range fault found, up to the first pages that stayed read-only although they were to be written,
    /// which it answers: own private ones, which a range fault never upgrades. Caller holds `mutex`.
    private func store(_ range: borrowing HMMRange, write: Bool) throws(HMMError) -> PageRange? {
        var runs: [MirrorRun] = []
        var refused: PageRange?
        range.forEachValidRun { run in
            if write, !run.isWritable, refused == nil { refused = run.pages }
            guard refused == nil else { return }
            runs.append(
                MirrorRun(pages: run.pages, firstFrame: run.firstFrame, isWritable: run.isWritable))
        }
        try table.commit(runs)
        return refused
    }

    // MARK: Requests

    /// Checks what every request checks first, and hears what is due.
    /// - Parameter room: how many words the caller's buffer has.
    func validate(_ pages: PageRange, room: Int = .max) throws(HMMError) {
        guard isOpen.load(ordering: .acquiring) else { throw HMMError(.noDevice, "the mirror was closed") }
        space.deliverInvalidations()
        guard !pages.isEmpty, pages.upperBound <= Geometry.endPage else {
            throw HMMError(.invalidArgument, "an empty range, or one beyond the address space")
        }
        guard room / Geometry.wordsPerPage >= pages.pageCount else {
            throw HMMError(.invalidArgument, "the buffer is smaller than the range")
        }
    }

    func requireSpace() throws(HMMError) {
        guard !space.notifiers.isReleased else { throw HMMError(.invalidArgument, "the address space is gone") }
    }
}
