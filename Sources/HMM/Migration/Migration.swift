/// Pages of one mapping on their way to, from or between devices: setup → copy → commit → finish.
///
/// ```
/// setup    the range fault's walk collects: each page that is selected and can be had is locked, and a migration entry
///          takes its place; other entries follow by the reverse map; what has references that nothing explains goes
///          back
/// copy     the driver allocates destinations, copies, and sets them; a page without destination stays
/// commit   each page that is still free of foreign references hands its identity to its destination; holes are filled
///          → the driver maps what moved
/// finish   migration entries become entries of the new frames, or of the old ones
/// ```
/// The mmap lock is held, for reading at least, from before setup until after finish, which always runs: whatever the
/// driver does or leaves out, each page ends as its new frame or as exactly its old one.
///
/// Who holds one of these folios may only *try* other folio locks (INV-MG-9).
///
/// Kernel: migrate_vma_setup, migrate_vma_pages, migrate_vma_finalize (mm/migrate_device.c, 6.12), with the walk of
/// "Migrate on fault for device pages", 2026.
public struct Migration: ~Copyable {
    private let state: any MigrationEngine

    package init(_ state: some MigrationEngine) { self.state = state }

    // MARK: What was collected

    /// The pages that this migration covers: the first part of what was asked for, at least a page. It is shorter where
    /// the next page had to be faulted in or waited for, which nobody does with pages in hand.
    public var pages: PageRange { state.pages }
    /// Pages that could move after setup, holes included. No promise: only `isMigrating` after commit is.
    public var collectedCount: Int { state.collectedCount }
    /// Pages that moved, once committed; those with a frame, and holes that were filled.
    public var movedCount: Int { state.movedCount }
    public var filledHoleCount: Int { state.filledHoleCount }
    /// 2 MiB stayed although they could have moved, because one side had no unit for the other: without `.compound`
    /// they may move page by page.
    public var refusedUnits: Bool { state.refusedUnits }
    /// How the last copy went.
    public var copyFailures: Int { state.copyFailures }
    /// Pages for which there was no destination.
    public var missingDestinations: Int { state.missingDestinations }

    public subscript(index: Int) -> MigrationPage {
        precondition(index >= 0 && index < pages.pageCount, "no such page in the migration")
        return MigrationPage(rawValue: state.source[index])
    }
    public subscript(page: PageNumber) -> MigrationPage { self[pages.lowerBound.distance(to: page)] }

    /// The destination of the page, or nil.
    public func destination(at index: Int) -> FrameNumber? {
        precondition(index >= 0 && index < pages.pageCount, "no such page in the migration")
        let word = state.destination[index]
        return word == 0 ? nil : MigrationWord.frame(word)
    }

    // MARK: Copy

    /// Sets where the page goes. The folio is new: locked, with one reference and the caller's bytes, and it belongs to
    /// the migration from now on. For a unit it is one of 2 MiB.
    public func setDestination(_ frame: FrameNumber, at index: Int) {
        precondition(index >= 0 && index < pages.pageCount, "no such page in the migration")
        state.setDestination(frame, at: index)
    }

    /// Gives every collected page that has none a destination in `memory`, and copies it; holes become zeros. Pages
    /// that are there already stay.
    ///
    /// - Parameter evicting: when the device is full, its least recently used pages go to system memory.
    public func copyToDevice(_ memory: DeviceMemory, evicting: Bool = true) {
        state.requirePhase(.collected)
        state.copy(to: memory, evicting: evicting)
    }

    /// Gives every collected page of a device a destination in system memory, and copies it.
    public func copyToSystem() {
        state.requirePhase(.collected)
        state.copy(to: nil, evicting: false)
    }

    // MARK: Commit

    /// Moves what has a destination. Afterwards `isMigrating` says what moved, and the caller may map that, until
    /// `finish` releases the locks.
    ///
    /// May tell others that holes are filled, by MIGRATE invalidations with the request's owner: no driver lock is
    /// held.
    public func commit() {
        state.requirePhase(.collected)
        state.commit()
    }

    /// Whether this page moved, alone or in a unit.
    public func hasMoved(_ index: Int) -> Bool {
        state.requirePhase(.committed)
        return state.hasMoved(index)
    }

    /// Calls `body` for each maximal run of moved pages with contiguous destinations and equal rights, for a mirror.
    public func forEachMovedRun(_ body: (HMMRun) -> Void) {
        state.requirePhase(.committed)
        state.forEachMovedRun(body)
    }

    /// Calls `body` for each maximal run of pages that do not migrate and are valid. For a mirror only after the check
    /// of the sequence, under the driver lock: nothing holds these pages.
    public func forEachResidentRun(_ body: (HMMRun) -> Void) { state.forEachResidentRun(body) }

    /// Ends the migration before the end of its scope.
    public func finish() { state.finish() }

    deinit { state.finish() }
}

extension AddressSpace {
    /// Collects pages for a migration, lets `body` copy and commit, and finishes whatever it did or threw.
    ///
    /// The mmap lock is held, and no other lock. The pages lie in one mapping. The migration may cover fewer pages than
    /// asked for (`Migration.pages`), and moves what can be moved: pages that others use or hold stay without an error.
    ///
    /// - Throws: `.invalidArgument`: empty range, no mapping at its start, hugetlb or not memory, fault frame that is
    ///   not device-private. `.outOfRange`: it reaches beyond the mapping. With `fault` set also the errors of a range
    ///   fault, and `.busy` when the sequence moved. Nothing is changed then. And what `body` throws.
    ///
    /// Invariant: INV-MG-1, INV-MG-2, INV-MG-12.
    public func withMigration<Result>(
        _ pages: PageRange, _ request: MigrationRequest,
        _ body: (borrowing Migration) throws(HMMError) -> Result
    ) throws(HMMError) -> Result {
        let migration = Migration(try MigrationState(self, pages, request))
        defer { migration.finish() }
        return try body(migration)
    }
}
