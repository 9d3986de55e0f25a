import CLive
import HMM

extension LiveSpace {
    /// Pages that are migrated together: what is asked of the kernel beside the moves is asked once for all of them.
    private static let chunkPages = 4096

    /// One table's pages where each piece may have to wait for the ones before it: what is faulted in first, and
    /// devices that may have to give something up.
    public func migrationChunkPages(_ request: MigrationRequest) -> Int {
        let hasRoom = request.ownMemory.map { $0.availableFrames >= 2 * Self.chunkPages } ?? true
        let comesHome = request.select.isDisjoint(with: .system)
        return request.fault.isEmpty && (hasRoom || comesHome) ? Self.chunkPages : 1 << Geometry.pmdOrder
    }

    /// Collects pages of one mapping for a migration, as `AddressSpace.withMigration` does on the model. The mmap lock
    /// is held.
    ///
    /// - Throws: `.invalidArgument`: empty range, no mapping at its start, hugetlb or not memory. `.outOfRange`: it
    ///   reaches beyond the mapping. With `fault` set also the errors of a range fault, and `.busy`.
    public func withMigration<Result>(
        _ pages: PageRange, _ request: MigrationRequest,
        _ body: (borrowing Migration) throws(HMMError) -> Result
    ) throws(HMMError) -> Result {
        let migration = Migration(try LiveMigration(self, pages, request))
        defer { migration.finish() }
        return try body(migration)
    }
}
