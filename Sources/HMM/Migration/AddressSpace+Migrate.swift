// Whole migrations in one call: prefetch to a device, eviction by address, and the way back for a CPU.

/// What a migration of a range came to.
public struct MigrationSummary: Hashable, Sendable {
    /// Pages that moved with their contents.
    public var moved = 0
    /// Pages that were empty, or nothing but zeros, and are on the device now.
    public var filled = 0
    /// Pages that stayed, for whatever reason; those that were there already among them.
    public var stayed = 0
    /// Pages of `stayed` that had no place to go.
    public var withoutPlace = 0
    /// Pages of `stayed` that a device failed to copy.
    public var notCopied = 0

    public init() {}

    mutating func add(_ migration: borrowing Migration) {
        moved += migration.movedCount
        filled += migration.filledHoleCount
        stayed += migration.pages.pageCount - migration.movedCount - migration.filledHoleCount
        withoutPlace += migration.missingDestinations
        notCopied += migration.copyFailures
    }
}

extension AddressSpace {
    /// Pages of one chunk: as much as one table maps, so that each migration takes one table lock.
    private static let chunkPages = 1 << Geometry.pmdOrder

    /// Migrates a range chunk by chunk, through as many mappings as it has. Holes between mappings, hugetlb, mappings
    /// without the right to read and those that are no memory are passed over; their pages stay.
    ///
    /// Takes the mmap lock for reading, for each chunk anew; no lock is held by the caller.
    ///
    /// - Parameters:
    ///   - copy: gives the collected pages their destinations.
    ///   - map: maps what moved, in the time between commit and finish. Takes the driver lock itself.
    ///
    /// - Throws: with `request.fault` set, the errors of a range fault; what was moved before stays moved.
    public func migrate(
        _ pages: PageRange, _ request: MigrationRequest, copy: (borrowing Migration) -> Void,
        map: (borrowing Migration) throws(HMMError) -> Void = { _ in }
    ) throws(HMMError) -> MigrationSummary {
        var summary = MigrationSummary()
        var page = pages.lowerBound
        while page < pages.upperBound {
            lockForReading()
            defer { unlockForReading() }
            guard let vma = vmas.firstEnding(after: page), vma.pages.lowerBound < pages.upperBound else {
                summary.stayed += page.distance(to: pages.upperBound)
                break
            }
            let start = max(page, vma.pages.lowerBound)
            let tableEnd = start.alignedDown(order: Geometry.pmdOrder).advanced(by: Self.chunkPages)
            let chunk = start..<min(tableEnd, vma.pages.upperBound, pages.upperBound)
            summary.stayed += page.distance(to: start)
            guard !vma.isHugetlb, !vma.flags.contains(.special), vma.isReadable else {
                summary.stayed += chunk.pageCount
                page = chunk.upperBound
                continue
            }
            page = try migrateChunk(chunk, request, copy, map, &summary)
        }
        return summary
    }

    /// Answers where to go on.
    private func migrateChunk(
        _ chunk: PageRange, _ request: MigrationRequest, _ copy: (borrowing Migration) -> Void,
        _ map: (borrowing Migration) throws(HMMError) -> Void, _ summary: inout MigrationSummary
    ) throws(HMMError) -> PageNumber {
        var part = MigrationSummary()
        var end = chunk.lowerBound
        var hasRefusedUnits = false
        try withMigration(chunk, request) { (migration: borrowing Migration) throws(HMMError) in
            copy(migration)
            migration.commit()
            end = migration.pages.upperBound
            hasRefusedUnits = migration.refusedUnits
            part.add(migration)
            try map(migration)
        }
        if hasRefusedUnits, request.select.contains(.compound) {
            // Not as a whole; page by page perhaps.
            var singles = request
            singles.select.remove(.compound)
            part = MigrationSummary()
            end = try migrateChunk(chunk, singles, copy, map, &part)
        }
        summary.moved += part.moved
        summary.filled += part.filled
        summary.stayed += part.stayed
        summary.withoutPlace += part.withoutPlace
        summary.notCopied += part.notCopied
        return end
    }

    /// Brings a range to a device, in one call: what is mapped moves, also from the memory of `sources`, and what is
    /// not mapped becomes pages of the device.
    ///
    /// - Parameters:
    ///   - evicting: a full device gives up its least recently used pages; otherwise what has no place stays.
    ///   - fault: what to do first with pages that are swapped out or elsewhere.
    ///   - map: as for `migrate`.
    public func prefetch(
        _ pages: PageRange, to memory: DeviceMemory, from sources: [DeviceMemory] = [], owner: NotifierOwner? = nil,
        evicting: Bool = true, fault: HMMPageRequest = [],
        map: (borrowing Migration) throws(HMMError) -> Void = { _ in }
    ) throws(HMMError) -> MigrationSummary {
        var request = MigrationRequest.toDevice(memory, from: sources, owner: owner)
        request.fault = fault
        return try migrate(pages, request, copy: { $0.copyToDevice(memory, evicting: evicting) }, map: map)
    }

    /// Brings the pages of a range that are in `memory` back to system memory.
    public func evict(
        _ pages: PageRange, from memory: DeviceMemory, owner: NotifierOwner? = nil,
        map: (borrowing Migration) throws(HMMError) -> Void = { _ in }
    ) throws(HMMError) -> MigrationSummary {
        let request = MigrationRequest.toSystem(from: memory, owner: owner)
        return try migrate(pages, request, copy: { $0.copyToSystem() }, map: map)
    }

    // MARK: A CPU fault on a page of device-private memory

    /// Rounds in which a page may turn out to be held by somebody, before that is an error. Whoever looks at a folio by
    /// its frame holds it for an instant.
    private static let bringHomeRounds = 1_000

    /// What a `DevicePrivateFaultHandler` does: moves the page that a CPU faults on to system memory, with those around
    /// it that are in the same memory, as far as they can be had.
    ///
    /// The mmap lock is held for reading, and the folio of `frame` is locked and referenced, as the handler gets them.
    ///
    /// - Parameters:
    ///   - window: pages around it, a power of 2, that are moved along.
    ///   - map: called after commit, for the driver to drop what it has mapped.
    /// - Throws: `.outOfMemory`: there was no page to move to. `.noDevice`: the device could not copy. `.busy`:
    ///   somebody holds the page, and goes on doing so. It stays where it is.
    public func bringHome(
        _ page: PageNumber, _ frame: FrameNumber, from memory: DeviceMemory, owner: NotifierOwner? = nil,
        window: Int = 1, map: (borrowing Migration) throws(HMMError) -> Void = { _ in }
    ) throws(HMMError) {
        precondition(window > 0 && window & (window - 1) == 0, "a window is a power of 2")
        guard let vma = vmas.find(page) else { return }
        var request = MigrationRequest.toSystem(from: memory, owner: owner)
        request.faultFrame = frame
        var isAlone = false
        for round in 0..<Self.bringHomeRounds {
            let order = frames.order(ofHead: frames.head(of: frame))
            let around = vma.pages.intersection(
                isAlone ? page..<page.advanced(by: 1) : Self.window(window, around: page, order))!
            var outcome = (isHome: false, hadPlace: true, isCopied: true)
            try withMigration(around, request) { (migration: borrowing Migration) throws(HMMError) in
                migration.copyToSystem()
                let index = migration.pages.lowerBound.distance(to: page)
                outcome.hadPlace = migration.missingDestinations == 0
                outcome.isCopied = migration.copyFailures == 0
                migration.commit()
                outcome.isHome = migration.hasMoved(index)
                try map(migration)
            }
            if outcome.isHome || leaf(page)?.0.frame != frame { return }
            guard outcome.hadPlace || !isAlone else {
                throw HMMError(.outOfMemory, "no system memory for a page of a device")
            }
            guard outcome.isCopied || !isAlone else { throw HMMError(.noDevice, "a device cannot give a page back") }
            // What does not succeed with its neighbours may succeed without them.
            isAlone = true
            if round > 0 { SyncClock.sleep(nanoseconds: 1_000) }
        }
        throw HMMError(.busy, "a page of a device is held by others")
    }

    /// The aligned block of `count` pages around `page`, or the 2 MiB that it is a part of.
    private static func window(_ count: Int, around page: PageNumber, _ order: Int) -> PageRange {
        let order = max(order, count.trailingZeroBitCount)
        let first = page.alignedDown(order: order)
        return first..<first.advanced(by: 1 << order)
    }
}
