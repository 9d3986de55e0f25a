/// What a driver of a device with memory of its own, or with atomics, sees of an address space besides
/// `DeviceAddressSpace`.
public protocol MigratingAddressSpace: DeviceAddressSpace {
    /// Collects, copies and commits pages of one mapping (see `AddressSpace.withMigration`). The mmap lock is held.
    func withMigration<Result>(
        _ pages: PageRange, _ request: MigrationRequest,
        _ body: (borrowing Migration) throws(HMMError) -> Result
    ) throws(HMMError) -> Result

    /// Migrates a range chunk by chunk, through as many mappings as it has (see `AddressSpace.migrate`). No lock is
    /// held.
    func migrate(
        _ pages: PageRange, _ request: MigrationRequest, copy: (borrowing Migration) -> Void,
        map: (borrowing Migration) throws(HMMError) -> Void
    ) throws(HMMError) -> MigrationSummary

    /// Brings the pages that are in `memory` back (see `AddressSpace.evict`). No lock is held.
    func evict(
        _ pages: PageRange, from memory: DeviceMemory, owner: NotifierOwner?,
        map: (borrowing Migration) throws(HMMError) -> Void
    ) throws(HMMError) -> MigrationSummary

    /// Takes pages exclusively in the way of 6.12 (see `AddressSpace.makeExclusiveBatch`). The mmap lock is held.
    func makeExclusiveBatch(_ pages: PageRange) throws(HMMError) -> ExclusiveBatch

    /// Takes a page exclusively and commits it (see `AddressSpace.exclusiveFault`). No lock is held.
    func exclusiveFault(
        _ page: PageNumber, interval: IntervalNotifier, policy: DeviceFaultPolicy,
        commit: (_ frame: FrameNumber, _ sequence: UInt64) throws(HMMError) -> Bool
    ) throws(HMMError) -> Int

    /// Takes back every page of the range that is exclusive to a device. No lock is held.
    func takeBackExclusive(_ pages: PageRange) throws(HMMError)
}

extension AddressSpace: MigratingAddressSpace {}
