import Synchronization

/// What a machine has.
public struct MachineConfiguration: Sendable {
    /// System memory, in bytes.
    public var systemMemoryBytes = 3 << 30
    /// Swap space, in bytes.
    public var swapBytes = 256 << 20
    /// Pages of 2 MiB of the hugetlb pool, beside system memory.
    public var hugetlbPages = 16
    /// The most memory that all devices may have together, in bytes: address space only, until it is used.
    public var deviceMemoryBytes = 16 << 30
    /// The most page tables, of all address spaces together.
    public var pageTables = 1 << 18
    /// Whether the host may back memory with huge pages: copies are faster by a third, and the first touch of each
    /// 2 MiB costs the host that much.
    public var hostHugePages = true
    /// Which kernel the machine answers as.
    public var profile = KernelProfile.linux6_12

    public init() {}

    /// As little as a schedule of an explorer needs: made in less than a millisecond. Large enough for folios of 2 MiB
    /// on both sides.
    public static var small: Self {
        var configuration = Self()
        configuration.systemMemoryBytes = 64 << 20
        configuration.swapBytes = 16 << 20
        configuration.hugetlbPages = 4
        // Four chunks of frame numbers, so that four devices can have memory.
        configuration.deviceMemoryBytes = 1 << 30
        configuration.pageTables = 1024
        configuration.hostHugePages = false
        return configuration
    }
}

/// A machine: its memory, and the address spaces and devices that share it.
public final class Machine: SwapCacheDropper, @unchecked Sendable {
    // All properties are immutable; each object names its lock.
    public let configuration: MachineConfiguration
    public var profile: KernelProfile { configuration.profile }
    public let frames: FrameTable
    public let faultInjector = FaultInjector()
    public let statistics = Statistics()
    package let tables: PageTablePool
    package let swap: SwapArea
    let anonVMAs = AnonVMATable()
    let files = FileTable()
    let books: MachineBooks

    private let lock = SpinLock(.pool)
    /// Address spaces that have not exited, in the order of their making. Guarded by `lock`.
    private var spaces: [Unmanaged<AddressSpace>] = []
    /// Of address spaces that have exited: those that somebody still subscribes to. Guarded by `lock`.
    private var subscribedEnds: [MMUNotifiers] = []
    /// Who brings pages back from each zone of device-private memory. Guarded by `lock`.
    private var privateFaultHandlers: [UInt16: any DevicePrivateFaultHandler] = [:]
    /// The address space of the running process, if its pages may be in this machine's devices. Guarded by `lock`.
    private weak var foreignSpace: (any ForeignAddressSpace)?

    /// - Throws: `.outOfMemory` when the host gives no address space for the arenas.
    public init(_ configuration: MachineConfiguration = MachineConfiguration()) throws(HMMError) {
        self.configuration = configuration
        frames = try FrameTable(
            systemFrames: configuration.systemMemoryBytes / Geometry.pageSizeBytes,
            hugetlbPages: configuration.hugetlbPages,
            deviceFrames: configuration.deviceMemoryBytes / Geometry.pageSizeBytes,
            hostHugePages: configuration.hostHugePages, injector: faultInjector)
        tables = try PageTablePool(capacity: configuration.pageTables, injector: faultInjector)
        swap = try SwapArea(bytes: configuration.swapBytes, injector: faultInjector)
        books = try MachineBooks(frameLimit: Int(frames.limit.raw))
        frames.swapCacheDropper = self
    }

    /// An empty address space.
    public func makeAddressSpace() throws(HMMError) -> AddressSpace {
        try faultInjector.check(.object)
        return try AddressSpace(machine: self)
    }

    /// A file of `pageCount` pages of zeros, or the memory behind a shared anonymous mapping.
    public func makeFile(pageCount: Int) throws(HMMError) -> FileMapping {
        try faultInjector.check(.object)
        return files.make(pageCount: pageCount, machine: self)
    }

    // MARK: Registries

    func register(_ space: AddressSpace) { lock.withLock { spaces.append(.passUnretained(space)) } }
    func unregister(_ space: AddressSpace) {
        lock.withLock { spaces.removeAll { $0.toOpaque() == Unmanaged.passUnretained(space).toOpaque() } }
    }
    /// An address space has exited. Drivers may close their mirrors later, but close them they must.
    func noteEnd(of notifiers: MMUNotifiers) {
        guard notifiers.subscriberCount.load(ordering: .relaxed) > 0 else { return }
        lock.withLock {
            subscribedEnds.removeAll { $0.subscriberCount.load(ordering: .relaxed) == 0 }
            subscribedEnds.append(notifiers)
        }
    }
    /// Notifiers that nobody has removed, of address spaces that have exited.
    var forgottenNotifiers: Int {
        lock.withLock { subscribedEnds.reduce(0) { $0 + $1.subscriberCount.load(ordering: .relaxed) } }
    }
    func forgetEnds() { lock.withLock { subscribedEnds.removeAll() } }
    /// The address spaces that have not exited.
    package var addressSpaces: [AddressSpace] { lock.withLock { spaces.map { $0.takeUnretainedValue() } } }

    /// The same one by one, without an array.
    func forEachAddressSpace(_ body: (AddressSpace) -> Void) {
        let spaces = lock.withLock { self.spaces }
        for space in spaces { space._withUnsafeGuaranteedRef(body) }
    }

    package func setPrivateFaultHandler(_ handler: (any DevicePrivateFaultHandler)?, for memory: DeviceMemory) {
        schedulingPoint(.update, on: address)
        lock.withLock { privateFaultHandlers[memory.zone] = handler }
    }
    package func setForeignSpace(_ space: any ForeignAddressSpace) { lock.withLock { foreignSpace = space } }
    var foreign: (any ForeignAddressSpace)? { lock.withLock { foreignSpace } }
    package func privateFaultHandler(for frame: FrameNumber) -> (any DevicePrivateFaultHandler)? {
        schedulingPoint(.load, on: address)
        return lock.withLock { privateFaultHandlers[UInt16(frames.zone(of: frame))] }
    }

    var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}

/// What a driver of device-private memory does when a CPU touches a page that is there.
public protocol DevicePrivateFaultHandler: AnyObject, Sendable {
    /// Moves the page back to system memory. The mmap lock is held for reading; `frame` is referenced by the caller,
    /// and locked by it too.
    ///
    /// - Throws: `.outOfMemory` when there was no page to move to; anything else becomes SIGBUS.
    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError)

    /// A CPU took the page home by itself, as on live memory: what the driver has mapped of it has to go. Answers the
    /// owner whose mirror needs not be told any more.
    func pageCameHome(_ page: PageNumber, in notifiers: MMUNotifiers) -> NotifierOwner?
}

extension DevicePrivateFaultHandler {
    public func pageCameHome(_ page: PageNumber, in notifiers: MMUNotifiers) -> NotifierOwner? { nil }
}

/// An address space that is not the machine's own, with pages in the memory of its devices: that of the running
/// process.
package protocol ForeignAddressSpace: AnyObject, Sendable {
    /// Brings every page home that is in `memory`. Answers how many moved. No lock is held.
    func evictAll(of memory: DeviceMemory) -> Int
}
