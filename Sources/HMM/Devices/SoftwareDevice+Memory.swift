// The memory of a software device: pages move there when the device is told so, or by its policy, and leave when it is
// told so, when a CPU wants them, or when others need the room.
//
// Lock order: mmap > folios of the migration > `driverLock`.

/// The memory that a device is given.
public struct SoftwareDeviceMemory: Sendable {
    public var machine: Machine
    public var kind: DeviceMemoryKind
    public var sizeBytes: Int

    public init(on machine: Machine, _ kind: DeviceMemoryKind, sizeBytes: Int) {
        self.machine = machine
        self.kind = kind
        self.sizeBytes = sizeBytes
    }
}

/// When a device takes pages into its own memory without being told.
public enum PlacementPolicy: Sendable {
    case never
    /// At each of its faults.
    case onFault
    /// When a page that it wants for atomic accesses keeps changing hands. The activity must observe the address space.
    case whenContended(ExclusiveActivity)
}

/// The device's own migrations under way, and what others did to their pages meanwhile.
///
/// This driver does not skip the events of its own migrations: its entries go and its sequence moves, so its faults
/// need no other order. What is left is the mapping of moved pages before their locks are released. Somebody may have
/// dropped a migration entry meanwhile (`MADV_DONTNEED` holds the mmap lock for reading, as we do): the moved frame is
/// freed at the end then, and must not be mapped. Such an event overlaps the migration and is noted here.
///
/// All members: guarded by the driver lock.
struct OwnMigrations {
    private var running: ContiguousArray<(ticket: UInt64, pages: PageRange, voided: PageRange?)> = []
    private var lastTicket: UInt64 = 0

    mutating func begin(_ pages: PageRange) -> UInt64 {
        lastTicket += 1
        running.append((lastTicket, pages, nil))
        return lastTicket
    }

    var isEmpty: Bool { running.isEmpty }

    mutating func end(_ ticket: UInt64) { running.removeAll { $0.ticket == ticket } }

    /// True if nobody touched the pages since the migration began.
    func isSound(_ pages: PageRange, _ ticket: UInt64) -> Bool {
        running.contains { $0.ticket == ticket && $0.voided?.intersection(pages) == nil }
    }

    /// An invalidation: of others, or of an own migration. The latter concerns those that overlap it, and of several
    /// nobody knows whose it is.
    mutating func note(_ event: InvalidationRange, own: NotifierOwner) {
        guard !isEmpty else { return }
        let isOwn = event.event == .migrate && event.owner == own
        if isOwn, running.count(where: { $0.pages.intersection(event.pages) != nil }) == 1 { return }
        for index in running.indices {
            guard let pages = running[index].pages.intersection(event.pages) else { continue }
            let old = running[index].voided ?? pages
            running[index].voided =
                min(old.lowerBound, pages.lowerBound)..<max(old.upperBound, pages.upperBound)
        }
    }
}

extension SoftwareDevice {
    /// From now on pages can move to the device.
    func offerMemory() {
        // It brings pages home without an owner, as `evict` does.
        guard let memory, memory.kind == .private else { return }
        machine?.setPrivateFaultHandler(PrivateMemoryHandler(memory), for: memory)
    }

    /// Brings everything home, of all address spaces.
    func withdrawMemory() {
        guard let memory, let machine else { return }
        // While a page is left, a CPU's access to it needs the handler.
        guard (try? machine.remove(memory)) != nil else { return }
        machine.setPrivateFaultHandler(nil, for: memory)
    }

    // MARK: Moves

    /// Moves the pages to the device's memory in one call, and maps what moved and what can be reached where it is. A
    /// full device gives up the pages that it has not used for longest.
    ///
    /// - Parameters:
    ///   - others: devices from whose memory pages are taken directly.
    ///   - access: what is missing, or not fit for such an access, is faulted in first; nil: it stays as it is.
    /// - Throws: `.notSupported` for a device without memory; with `access` the errors of a fault; what was moved
    ///   before stays moved.
    public func prefetch(
        _ pages: PageRange, from others: [SoftwareDevice] = [], faulting access: AccessKind? = nil
    ) throws(HMMError) -> MigrationSummary {
        guard let memory else { throw HMMError(.notSupported, "the device has no memory of its own") }
        try requireAttached()
        var request = MigrationRequest.toDevice(memory, from: others.compactMap(\.memory), owner: owner)
        if let access { request.fault = HMMPageRequest(for: access) }
        space.deliverInvalidations()
        let turns = space.notifiers.turns
        let turn = turns.take(pages, owner: owner)
        defer { if let turn { turns.give(turn) } }
        let ticket = driverLock.withLock { ownMigrations.begin(pages) }
        defer { driverLock.withLock { ownMigrations.end(ticket) } }
        // Invalidations that were opened before the ticket was taken are waited for, later ones are noted.
        _ = interval.readBegin()
        let summary = try space.migrate(
            pages, request, copy: { $0.copyToDevice(memory) },
            map: { migration throws(HMMError) in try map(migration, ticket) })
        if policy.residenceNanoseconds > 0 {
            turns.hold(pages, owner: owner, untilNanoseconds: SyncClock.now() + policy.residenceNanoseconds)
        }
        return summary
    }

    /// Moves those of the pages that are in the device's memory back to system memory.
    public func evict(_ pages: PageRange) throws(HMMError) -> MigrationSummary {
        guard let memory else { throw HMMError(.notSupported, "the device has no memory of its own") }
        try requireAttached()
        space.deliverInvalidations()
        // The MIGRATE event takes the entries out of the mirror. It has no owner: migrations to this device that run at
        // the same time have to take note of it, as of anybody's.
        return try space.evict(pages, from: memory, owner: nil) { _ throws(HMMError) in }
    }

    /// Moves pages at a fault, if the policy says so. What cannot move stays, and the fault goes on without.
    func placeAtFault(_ pages: PageRange, _ access: AccessKind) throws(HMMError) {
        guard memory != nil else { return }
        switch placement {
        case .never: return
        case .onFault: break
        case .whenContended(let activity):
            guard access == .atomic, activity.suggestion(for: pages.lowerBound) == .migrate else { return }
        }
        do throws(HMMError) {
            _ = try prefetch(pages, faulting: access)
        } catch {
            if error.code == .inconsistent { throw error }
        }
    }

    /// The mirror has the page in the device's own memory, without the right to write.
    func isOwnAndReadOnly(_ page: PageNumber) -> Bool {
        guard let entry = table.lookup(page) else { return false }
        return entry.location == .ownDevice && !entry.isWritable
    }

    /// Maps what a migration moved, while it is still locked, and what it found elsewhere.
    private func map(_ migration: borrowing Migration, _ ticket: UInt64) throws(HMMError) {
        var moved: [MirrorRun] = []
        var resident: [MirrorRun] = []
        migration.forEachMovedRun { run in appendRuns(run, to: &moved) }
        migration.forEachResidentRun { run in appendRuns(run, to: &resident) }
        driverLock.lock()
        defer { driverLock.unlock() }
        moved.removeAll { !ownMigrations.isSound($0.pages, ticket) }
        resident.removeAll { !ownMigrations.isSound($0.pages, ticket) }
        // What could not be stored is faulted in when it is used.
        _ = try store(moved)
        _ = try store(resident)
    }

    // MARK: Places

    /// Adds a run of frames, in pieces if they lie in different memories.
    func appendRuns(_ run: HMMRun, to runs: inout [MirrorRun]) {
        let first = location(of: run.firstFrame)
        if first == location(of: run.firstFrame + (run.pages.pageCount - 1)) {
            runs.append(
                MirrorRun(
                    pages: run.pages, firstFrame: run.firstFrame, isWritable: run.isWritable, order: run.order,
                    location: first))
            return
        }
        var builder = MirrorRunBuilder()
        for (index, page) in run.pages.enumerated() {
            let frame = run.firstFrame + index
            builder.append(
                MirrorRun(
                    pages: page..<page.advanced(by: 1), firstFrame: frame, isWritable: run.isWritable,
                    location: location(of: frame)))
        }
        runs += builder.runs
    }

    func location(of frame: FrameNumber) -> MirrorLocation {
        guard case .device(let owner, _) = space.place(of: frame) else { return .system }
        return owner == self.owner.device ? .ownDevice : .peer
    }
}
