import CLive
import Glibc
import HMM
import Synchronization

// Lock order: `delivery` > `mmapLock` > folios of device memory > driver locks (taken in callbacks). The fault path of
// CPUs takes none of them: it is in C, and the words of pages are all that it shares with this.

/// The address space of the running process, behind the surface that drivers know from the model.
///
/// What a device mirrors in place it reaches at the process's own addresses. What it takes for itself, into its memory
/// or for exclusive access, is moved out of the process's page tables into a slot of the arena of `machine`'s device
/// memory; a CPU that touches such a page fetches it back in its own fault, without waiting for any driver. So each
/// page is in one place at any time, and nobody sees stale bytes; mirrors are told afterwards, by
/// `deliverInvalidations`.
///
/// Source: userfaultfd(2), and the live backend of Documentation/live.md.
public final class LiveSpace: @unchecked Sendable {
    /// What a process wants of its live space.
    public struct Configuration: Sendable {
        /// The most memory that all devices may have together, in bytes: address space only, until it is used.
        public var deviceMemoryBytes = 16 << 30
        /// Which kernel the drivers answer as.
        public var profile = KernelProfile.linux6_12
        /// A CPU fault on a page in a device's memory brings the aligned block of so many pages home, as far as they
        /// are there: a power of 2, at most 512.
        public var faultAroundPages = 16
        /// Pages are copied even where they could be moved.
        public var copiesAlways = false
        /// The page of zeros that all share, read but never written, goes to a device as a hole does and comes home as
        /// a page of its own, as with a kernel. To tell it apart takes a look at the page tables before each move.
        public var tellsZeroPages = false
        /// Where the pages of device-coherent memory lie.
        public var coherentNode = CoherentNode.automatic
        /// Where faults of memory are answered that was adopted without saying where.
        public var defaultFaults = FaultPath.automatic

        public init() {}
    }

    /// Where a CPU fault on a page that is away is answered.
    public enum FaultPath: Sendable {
        /// On the faulting thread for memory that was made by this library, which knows that no system call gets it;
        /// by the handler thread for everything else.
        case automatic
        /// On the faulting thread: a few microseconds. A system call that meets such a page answers EFAULT, and
        /// stacks cannot have it.
        case onThread
        /// By a thread of this library: two wake-ups, but system calls wait as a thread does; where only faults of
        /// programs may be answered (`hmm doctor` tells), they answer EFAULT here too.
        case handlerThread
    }

    // Immutable.
    public let configuration: Configuration
    /// The machine whose devices work on this process: `DmirrorDevice(machine:)`, `SoftwareDeviceMemory(on:)`.
    public let machine: Machine
    public let notifiers = MMUNotifiers()
    /// Nil: device-coherent memory is ordinary memory, and only counted.
    let memoryNodes: MemoryNodes?
    /// The slots of pages that are exclusive to a device.
    let exclusiveMemory: DeviceMemory
    /// Held for reading by drivers, for writing by whoever changes mappings or tells mirrors of returns.
    let mmapLock = RWLock(.mmap)
    /// One deliverer at a time, so that whoever comes second finds everything delivered.
    let delivery = DeliveryLock()
    /// The page of each frame of device-coherent memory, which has its bytes at the page's own address. Written under
    /// `mmapLock` held for reading by the one who has the folio locked.
    let coherentPages: HostMemory
    /// Counts forks, so that threads of a parent are not waited for in a child.
    let forks = Atomic<Int>(0)

    /// Some page of the process may be write-protected, by a fork or to notice writes; never taken back.
    private let protects = Atomic<Bool>(false)
    var hasProtectedPages: Bool { protects.load(ordering: .acquiring) }
    func noteProtection() { protects.store(true, ordering: .releasing) }

    /// Mappings that are not what is known of them.
    let stale = Mutex<[PageRange]>([])

    /// Mappings that a fork under way does not copy. Guarded by `mmapLock`, held for writing.
    var untouched: [PageRange] = []

    private static let instance = Mutex<LiveSpace?>(nil)

    /// The live space of this process, started with what it needs if it was not yet.
    ///
    /// - Throws: `.notPermitted` when userfaultfd is not allowed here (`hmm doctor` says what to set), `.notSupported`
    ///   when the kernel has none; `.outOfMemory`, `.tooManyFiles` and `.tryAgain` for want of address space, of
    ///   descriptors and of a thread.
    public static var shared: LiveSpace { get throws(HMMError) { try start() } }

    /// Starts the live space of this process. A process has one: if it was started before, that is answered, with its
    /// own configuration.
    public static func start(_ configuration: Configuration = .init()) throws(HMMError) -> LiveSpace {
        try instance.withLock { (shared: inout sending LiveSpace?) throws(HMMError) in
            if let shared { return shared }
            let space = try LiveSpace(configuration)
            shared = space
            return space
        }
    }

    /// Exclusive pages have as much again, and the number of a slot has 31 bits.
    private static let mostDeviceMemory = 3 << 40

    private init(_ configuration: Configuration) throws(HMMError) {
        guard configuration.faultAroundPages > 0, configuration.faultAroundPages <= Geometry.entriesPerTable,
            configuration.faultAroundPages & (configuration.faultAroundPages - 1) == 0
        else { throw HMMError(.invalidArgument, "a fault brings home a power of 2 of pages, at most 512") }
        guard 0...Self.mostDeviceMemory ~= configuration.deviceMemoryBytes else {
            throw HMMError(.invalidArgument, "devices have from 0 to 3 TiB of memory")
        }
        guard clive_without_is_known() else {
            throw HMMError(.invalidArgument, "HMM_WITHOUT names something that cannot be left out")
        }
        self.configuration = configuration
        memoryNodes = try MemoryNodes(configuration.coherentNode)
        machine = try Machine(Self.machineConfiguration(configuration))
        exclusiveMemory = DeviceMemory(
            kind: .private, owner: .max, limitBytes: configuration.deviceMemoryBytes, frames: machine.frames)
        let (arena, frameCount) = machine.frames.arena
        coherentPages = try HostMemory(lengthBytes: frameCount * MemoryLayout<UInt64>.stride)
        var options = clive_options()
        options.fault_around_pages = UInt32(configuration.faultAroundPages)
        options.copy_only = configuration.copiesAlways
        let status = clive_start(arena, UInt64(frameCount), &options)
        guard status != -EPERM else {
            throw HMMError(
                .notPermitted,
                """
                userfaultfd is not allowed here: set vm.unprivileged_userfaultfd to 1, give this user the right to \
                /dev/userfaultfd or, in a container, a seccomp profile that permits userfaultfd
                """)
        }
        guard status != -EMFILE, status != -ENFILE else {
            throw HMMError(.tooManyFiles, "no descriptor is free for userfaultfd and files of /proc")
        }
        guard status != -EAGAIN else { throw HMMError(.tryAgain, "no thread could be made that answers faults") }
        try HMMError.check(status, "userfaultfd cannot be used")
        machine.frames.leavesSlotsEmpty = true
        machine.setForeignSpace(self)
        forking.set(self)
        installForkHandlers()
        startDeliveryThread()
    }

    /// The node of memory on which pages of device-coherent memory lie; nil: they stay where they are.
    public var coherentNode: Int? { memoryNodes.map { Int($0.coherent) } }

    /// Only the device memory of the machine is used.
    private static func machineConfiguration(_ live: Configuration) -> MachineConfiguration {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = 4 << 20
        configuration.swapBytes = 1 << 20
        configuration.hugetlbPages = 0
        // Exclusive pages have memory of their own.
        configuration.deviceMemoryBytes = 2 * live.deviceMemoryBytes
        configuration.pageTables = 64
        configuration.hostHugePages = false
        configuration.profile = live.profile
        return configuration
    }

    /// The features of this kernel that the live space looks at, found by trying them.
    public static var features: clive_features {
        var features = clive_features()
        clive_probe(&features)
        return features
    }

    /// Has the faults of a range answered here from now on; without it that happens when a device first takes a page.
    ///
    /// - Throws: `.invalidArgument` for memory that userfaultfd does not take; `.busy` when a part of it has its faults
    ///   answered elsewhere, or by another program's userfaultfd.
    public func adopt(_ pages: PageRange, faults: FaultPath = .automatic) throws(HMMError) {
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        let path = faults == .automatic ? configuration.defaultFaults : faults
        let mode = Int32(Self.mode(of: path).rawValue)
        let isOthers = pages.contains {
            let known = clive_registered($0.raw)
            return known >= 0 && known != mode && isStale($0)
        }
        if isOthers || hasStaleAway(pages) { telling(InvalidationRange(.unmap, pages)) { forgetMapping(pages) } }
        try register(pages, path)
    }

    /// The same for a mapping that was just made: whatever is known of its pages is of another one, long gone.
    func adoptNew(_ pages: PageRange, faults: FaultPath) throws(HMMError) {
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        forgetMapping(pages)
        try register(pages, faults)
    }

    private static func mode(of faults: FaultPath) -> clive_mode {
        faults == .onThread ? CLIVE_ON_THREAD : CLIVE_HANDLER_THREAD
    }

    /// The mmap lock is held.
    func register(_ pages: PageRange, _ faults: FaultPath) throws(HMMError) {
        let mode = Self.mode(of: faults)
        _ = clive_keep_handler()
        try HMMError.check(
            clive_register(pages.lowerBound.raw, UInt64(pages.pageCount), mode), "the memory cannot be adopted")
    }
}

extension HMMError {
    /// The error of a call that answers a negative errno.
    static func check(_ status: Int32, _ reason: StaticString) throws(HMMError) {
        guard status < 0 else { return }
        throw HMMError(Code(rawValue: -status) ?? .invalidArgument, reason)
    }
}
