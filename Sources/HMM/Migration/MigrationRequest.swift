/// Which pages a migration takes.
///
/// Kernel: enum migrate_vma_info (include/linux/migrate.h, 6.12), and the compound and fault flags of later series.
public struct MigrationSelection: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Ordinary pages of system memory, and pages of zeros.
    public static let system = MigrationSelection(rawValue: 1 << 0)
    /// Pages in the device-private memory of `MigrationRequest.sources`.
    public static let devicePrivate = MigrationSelection(rawValue: 1 << 1)
    /// Pages in the device-coherent memory of `MigrationRequest.sources`.
    public static let deviceCoherent = MigrationSelection(rawValue: 1 << 2)
    /// 2 MiB that one entry maps may go as one unit.
    public static let compound = MigrationSelection(rawValue: 1 << 3)

    /// Whether anything is selected at all: `compound` alone selects nothing.
    var isMigration: Bool { !isDisjoint(with: [.system, .devicePrivate, .deviceCoherent]) }
}

/// What a driver asks of a migration.
///
/// Kernel: struct migrate_vma (include/linux/migrate.h, 6.12).
public struct MigrationRequest: Sendable {
    public var select: MigrationSelection
    /// Whose device pages may be taken. More than one where a device takes pages from others directly.
    public var sources: [DeviceMemory]
    /// The caller's own memory, if it is none of `sources`: a page that is there already is reported, not brought home.
    public var ownMemory: DeviceMemory?
    /// Who migrates: the owner of the MIGRATE invalidations, by which the caller's own mirror knows them.
    public var owner: NotifierOwner?
    /// What is made present, and writable, before it is collected. Without it holes are collected as holes.
    public var fault: HMMPageRequest = []
    /// A page of device-private memory that a CPU faults on: its folio is locked and referenced by the caller, before
    /// and after.
    ///
    /// Invariant: INV-MG-14.
    public var faultFrame: FrameNumber?
    /// If both are set, the migration is given up with EBUSY when the interval was invalidated since.
    public var interval: IntervalNotifier?
    public var sequence: UInt64 = 0

    public init(
        _ select: MigrationSelection, sources: [DeviceMemory] = [], owner: NotifierOwner? = nil
    ) {
        self.select = select
        self.sources = sources
        self.owner = owner
    }

    /// A request for pages on their way to `memory`: from system memory, and from other devices.
    public static func toDevice(
        _ memory: DeviceMemory, from sources: [DeviceMemory] = [], owner: NotifierOwner? = nil
    ) -> MigrationRequest {
        var request = MigrationRequest([.system, .compound], sources: sources, owner: owner)
        for source in sources { request.select.formUnion(source.kind.selection) }
        request.ownMemory = memory
        return request
    }

    /// A request for the pages that are in `memory`, on their way to system memory.
    public static func toSystem(from memory: DeviceMemory, owner: NotifierOwner? = nil) -> MigrationRequest {
        var request = MigrationRequest([memory.kind.selection, .compound], sources: [memory], owner: owner)
        request.ownMemory = memory
        return request
    }
}

extension DeviceMemoryKind {
    /// What selects pages of such memory.
    public var selection: MigrationSelection {
        switch self {
        case .private: .devicePrivate
        case .coherent: .deviceCoherent
        }
    }
}
