// Whole migrations in one call: to a device, and back by address.

/// An address space whose pages can move to the memory of a device.
public protocol PageMigrating: DeviceAddressSpace {
    /// Collects, copies and commits pages of one mapping (see `AddressSpace.withMigration`). The mmap lock is held.
    func withMigration<Result>(
        _ pages: PageRange, _ request: MigrationRequest,
        _ body: (borrowing Migration) throws(HMMError) -> Result
    ) throws(HMMError) -> Result

    /// How many pages `migrate` takes at a time: a power of 2, of what one table maps at least.
    func migrationChunkPages(_ request: MigrationRequest) -> Int
}

extension PageMigrating {
    /// As much as one table maps, so that each migration takes one table lock.
    public func migrationChunkPages(_ request: MigrationRequest) -> Int { 1 << Geometry.pmdOrder }
}

extension AddressSpace: PageMigrating {}

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

extension PageMigrating {
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
            lockMappingsForReading()
            defer { unlockMappingsForReading() }
            guard let mapping = mapping(endingAfter: page), mapping.pages.lowerBound < pages.upperBound else {
                summary.stayed += page.distance(to: pages.upperBound)
                break
            }
            let start = max(page, mapping.pages.lowerBound)
            let chunkPages = migrationChunkPages(request)
            let chunkEnd = start.alignedDown(order: chunkPages.trailingZeroBitCount).advanced(by: chunkPages)
            let chunk = start..<min(chunkEnd, mapping.pages.upperBound, pages.upperBound)
            summary.stayed += page.distance(to: start)
            guard !mapping.isHugetlb, !mapping.isSpecial, mapping.protection.contains(.read) else {
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
}
