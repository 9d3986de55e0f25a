/// The oddities of Linux 6.12's test driver that programs can see. Each is decided in one place; `next` has none.
///
/// Not among them are three real bugs, which no switch brings back: an owner token as coarse as the device (a mirror of
/// another address space skips invalidations that it needs), an erase in the wrong mirror, and own migrations that
/// nothing orders against other threads of the mirror.
public struct DmirrorWarts: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// W2: an invalidation also erases the entry of the page behind its range.
    public static let erasesPageBehind = DmirrorWarts(rawValue: 1 << 0)
    /// W3: a page in the device's own memory that may only be read is never made writable: a device write gets EFAULT.
    public static let ownReadOnlyPagesStaySo = DmirrorWarts(rawValue: 1 << 1)
    /// W4: what a migration answers depends on the table, not on whether anything moved.
    public static let migrateAnswersByTable = DmirrorWarts(rawValue: 1 << 2)
    /// W5: the close of a mirror moves all memory of the device home, that of other processes too.
    public static let closeEvictsEverybody = DmirrorWarts(rawValue: 1 << 3)
    /// W8: what the device writes through an entry is not marked dirty. A shared page that a read fault made writable,
    /// and that only the device wrote, is dropped by page-out as if nobody had: the bytes are lost.
    public static let writesStayClean = DmirrorWarts(rawValue: 1 << 4)

    public static let linux6_12: DmirrorWarts = [
        .erasesPageBehind, .ownReadOnlyPagesStaySo, .migrateAnswersByTable, .closeEvictsEverybody,
        .writesStayClean,
    ]
}

/// The reference driver: a device that mirrors whole address spaces in a flat table and has memory of its own.
///
/// Kernel: lib/test_hmm.c (6.12). Its table stores the page that holds the bytes; here a device's frame has bytes of
/// its own, so that is the frame that the range fault reports.
public final class DmirrorDevice: @unchecked Sendable {
    public typealias Kind = DeviceMemoryKind

    // All immutable, except as noted.
    public let name: String
    public let machine: Machine
    public let index: Int
    public let warts: DmirrorWarts
    let memory: DeviceMemory
    private let lock = SpinLock(.leaf)
    /// Mirrors that were opened so far. Guarded by `lock`.
    private var openCount: UInt32 = 0
    /// Guarded by `lock`, in the order of opening.
    private var mirrors: [DmirrorMirror] = []

    /// - Parameters:
    ///   - index: the number that names the device as an owner of memory and events; unique in the machine.
    ///   - capacityBytes: the device's memory; nil for as much as 6.12's test driver takes (coherent: one chunk).
    public init(
        machine: Machine, name: String, kind: Kind, index: Int, capacityBytes: UInt64? = nil,
        warts: DmirrorWarts? = nil
    ) throws(HMMError) {
        let owner = try NotifierOwner.deviceNumber(ofIndex: index)
        self.machine = machine
        self.name = name
        self.index = index
        self.warts = warts ?? (machine.profile.testDriverHasWarts ? .linux6_12 : [])
        let chunkBytes = FrameTable.chunkFrames * Geometry.pageSizeBytes
        memory = DeviceMemory(
            kind: kind, owner: owner,
            limitBytes: capacityBytes.map { Int($0) } ?? (kind == .private ? 8 : 1) * chunkBytes,
            frames: machine.frames)
        if kind == .private { machine.setPrivateFaultHandler(PrivateMemoryHandler(memory, device: self), for: memory) }
    }

    /// Opens a mirror of the address space, with an empty table. Errors: EINVAL when the address space is gone.
    public func open(_ space: any MigratingAddressSpace) throws(HMMError) -> DmirrorMirror {
        try machine.faultInjector.check(.object)
        let number: UInt32 = lock.withLock {
            openCount += 1
            return openCount
        }
        let mirror = DmirrorMirror(
            device: self, space: space, owner: NotifierOwner(device: UInt32(index), mirror: number))
        try mirror.start()
        lock.withLock { mirrors.append(mirror) }
        return mirror
    }

    func forget(_ mirror: DmirrorMirror) { lock.withLock { mirrors.removeAll { $0 === mirror } } }

    /// The mirrors that are open.
    package var openMirrors: [DmirrorMirror] { lock.withLock { mirrors } }

    /// Gives all memory back: every page is moved to system memory, in all processes. The next migration starts with
    /// new chunks. Errors: EBUSY or ENOMEM when pages are left that somebody holds, or that have no place.
    public func release() throws(HMMError) { try machine.release(memory) }

    /// The device goes away, once all its mirrors are closed: its pages move home, and the machine forgets it. Errors
    /// as for `release`; the device is then still there, but hands out no memory any more. EBUSY also while a mirror is
    /// open.
    public func remove() throws(HMMError) {
        guard openMirrors.isEmpty else { throw HMMError(.busy, "mirrors of the device are open") }
        try machine.remove(memory)
        machine.setPrivateFaultHandler(nil, for: memory)
    }
}
