import HMM

extension LiveSpace {
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
