import Synchronization

/// A device made of software that computes on the memory of one address space: it has a page table, a TLB that is shot
/// down, replayable faults, atomic accesses, and memory of its own if it was given some.
///
/// The access that a fault was for is made before the fault's commit lets the driver lock go. So every fault is worth
/// an access, however many others want the page: several devices and CPUs cannot keep each other from working.
///
/// Lock order: mmap > folios (of a grant or a migration) > `driverLock` > the table's directories. Accesses hold no
/// lock while they fault.
public final class SoftwareDevice: IntervalNotifierClient, FaultQueueDelegate, @unchecked Sendable {
    /// The 512 words of a page.
    public typealias Words = UnsafeMutablePointer<Atomic<UInt64>>

    // Immutable.
    public let owner: NotifierOwner
    public let space: any MigratingAddressSpace
    public let policy: DeviceFaultPolicy
    /// When it takes pages into its own memory without being told.
    public let placement: PlacementPolicy
    /// Its own memory.
    public let memory: DeviceMemory?
    let machine: Machine?
    private let window: FrameWindow
    public let tlb: DeviceTLB
    /// Invariant: INV-MT-4, INV-MT-5, by the notifier protocol.
    public let table: RadixMirror
    let driverLock = FairMutex(.driver)
    /// Set once by `attach`.
    private(set) var interval: IntervalNotifier!
    private var queue: FaultQueue!
    private let isAttached = Atomic<Bool>(false)
    /// Itself, while it is attached: the address space does not keep who listens to it, and a program that drops its
    /// device, by an error for one, has pages there all the same. Set once by `attach`, taken back by `detach`.
    private var attached: SoftwareDevice?
    /// Migrations to this device that are under way. Guarded by `driverLock`.
    var ownMigrations = OwnMigrations()

    /// Told what became of queued faults; set before the first is queued.
    public var resumed: (@Sendable (DeviceFaultRequest) -> Void)?
    public var cancelled: (@Sendable (DeviceFaultRequest, HMMError) -> Void)?

    /// Attaches a device to the address space. It stays attached until `detach`, also when nobody holds it any more.
    /// Errors: EINVAL when the address space is gone, or for an index or a size that is negative.
    ///
    /// - Parameters:
    ///   - index: names the device as a party in invalidations, and as an owner of memory; unique in the machine.
    ///   - memory: of its own; without it the device computes on system memory only.
    public static func attach(
        to space: any MigratingAddressSpace, index: Int, memory: SoftwareDeviceMemory? = nil,
        placement: PlacementPolicy = .never, policy: DeviceFaultPolicy = .init(),
        mirror: MirrorConfiguration = .init(), coalescing: FaultCoalescing = .init()
    ) throws(HMMError) -> SoftwareDevice {
        let number = try NotifierOwner.deviceNumber(ofIndex: index)
        guard memory.map({ $0.sizeBytes >= 0 }) ?? true else {
            throw HMMError(.invalidArgument, "a device has no less than no memory")
        }
        let device = SoftwareDevice(
            space, number: number, memory: memory, placement: placement, policy: policy, mirror: mirror)
        device.queue = FaultQueue(device, coalescing)
        device.interval = try space.notifiers.insert(device, over: PageNumber(0)..<Geometry.endPage)
        device.attached = device
        device.isAttached.store(true, ordering: .releasing)
        device.offerMemory()
        return device
    }

    private init(
        _ space: any MigratingAddressSpace, number: UInt32, memory: SoftwareDeviceMemory?, placement: PlacementPolicy,
        policy: DeviceFaultPolicy, mirror: MirrorConfiguration
    ) {
        self.space = space
        self.placement = placement
        machine = memory?.machine
        self.memory = memory.map {
            DeviceMemory(
                kind: $0.kind, owner: number, limitBytes: $0.sizeBytes, frames: $0.machine.frames)
        }
        owner = NotifierOwner(device: number, mirror: 1)
        var policy = policy
        policy.owner = owner
        self.policy = policy
        window = space.frameWindow
        let tlb = DeviceTLB()
        self.tlb = tlb
        table = RadixMirror(
            mirror,
            effects: MirrorEffects(
                translationCache: tlb,
                reportDirty: { [weak space] run in
                    space?.noteDeviceWrite(run.pages, firstFrame: run.firstFrame)
                }))
    }

    /// Ends all mirroring, and brings what is in the device's memory home. What somebody goes on holding there stays,
    /// as readable as before. Accesses under way are waited for, or end with ENODEV; none is possible from now on.
    /// Nothing happens the second time.
    public func detach() {
        guard isAttached.exchange(false, ordering: .acquiringAndReleasing) else { return }
        defer { attached = nil }
        // First: what the mirror has must not outlive the interval by which it hears of changes. Nothing is stored in
        // it any more, because whoever does that has the lock, and looks whether the device is attached.
        driverLock.withLock { _ = table.invalidate(interval.pages, keeping: .nothingAndPrune, isBlockable: true) }
        interval.remove()
        withdrawMemory()
    }

    /// Whoever has not got what it wants from the mirror asks first: that of a detached device is empty.
    func requireAttached() throws(HMMError) {
        guard isAttached.load(ordering: .acquiring) else {
            throw HMMError(.noDevice, "the device was detached")
        }
    }

    // MARK: Invalidation

    public func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        // Filtered, or each attempt to make a page exclusive would void the sequence that it was begun with. The frame
        // stays the same, so nothing that is mapped becomes wrong.
        if range.event == .exclusive, range.owner == owner { return true }
        if range.isBlockable {
            driverLock.lock()
        } else if !driverLock.tryLock() {
            return false
        }
        defer { driverLock.unlock() }
        notifier.setSequence(sequence)
        ownMigrations.note(range, own: owner)
        guard let pages = range.pages.intersection(notifier.pages) else { return true }
        return table.invalidate(pages, keeping: .forEvent(range, owner: owner), isBlockable: range.isBlockable)
    }

    // MARK: Faults

    /// Makes the pages available for an access, all of them asked for alike. Answers the number of rounds.
    ///
    /// Atomic accesses are made ready one by one, by `withPage`: this faults in what they need.
    public func fault(_ pages: PageRange, _ access: AccessKind) throws(HMMError) -> Int {
        try placeAtFault(pages, access)
        return try fault(pages, access, then: {})
    }

    /// Calls `use` with the driver lock held, when the mirror has the pages.
    func fault(_ pages: PageRange, _ access: AccessKind, then use: () -> Void) throws(HMMError) -> Int {
        try requireAttached()
        var range = HMMRange(interval, pages)
        range.defaultRequest = HMMPageRequest(for: access)
        range.ownMemory = memory
        return try space.deviceFault(&range, policy: policy) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
            try commit(range, then: use)
        }
    }

    /// Writes what a range fault found into the mirror, if it is still so.
    func commit(_ range: borrowing HMMRange, then use: () -> Void = {}) throws(HMMError) -> Bool {
        var runs: [MirrorRun] = []
        range.forEachValidRun { run in appendRuns(run, to: &runs) }
        driverLock.lock()
        defer { driverLock.unlock() }
        guard !range.mustRetry(), try store(runs) else { return false }
        use()
        return true
    }

    /// Writes runs into the mirror; false if a page had another translation, which is gone now. The driver lock is
    /// held.
    ///
    /// That is a broken promise of a space that tells mirrors first. In one that tells them late, a CPU has taken the
    /// page home meanwhile, or it went into a slot to be exclusive to this device.
    func store(_ runs: [MirrorRun]) throws(HMMError) -> Bool {
        try requireAttached()
        do throws(HMMError) { try table.commit(runs) } catch {
            guard error.code == .inconsistent, space.tellsMirrorsLate else { throw error }
            return false
        }
        return true
    }

    // MARK: Accesses

    /// Runs `body` on the words of the page through the device's translation, faulting until there is one with the
    /// right. `body` must not wait, nor access other pages; it may run while the driver lock is held.
    ///
    /// For atomic accesses the page is in the device's own memory, or exclusive to it: no CPU and no other device
    /// reaches it until `body` returns. (A CPU reaches coherent memory; there the words are atomic for both.)
    public func withPage<Result>(
        _ page: PageNumber, for access: AccessKind, _ body: (Words) -> Result
    ) throws(HMMError) -> Result {
        var rounds = 0
        while true {
            if let result = use(page, access, body) { return result }
            rounds += 1
            try requireAttached()
            if rounds <= Self.placementRounds { try placeAtFault(page..<page.advanced(by: 1), access) }
            var result: Result?
            if access == .atomic {
                result = try useExclusively(page, isFirstTry: rounds == 1, body)
            } else {
                _ = try fault(page..<page.advanced(by: 1), access, then: { result = use(page, access, body) })
            }
            if let result { return result }
            // In the device's memory, and shared with a child: the copy is made in system memory.
            if access > .read, isOwnAndReadOnly(page) { _ = try evict(page..<page.advanced(by: 1)) }
            policy.pause(after: rounds)
        }
    }

    /// Rounds of one access in which pages are moved for it.
    private static let placementRounds = 3

    /// The access through the translation that there is; nil if it does not suffice.
    func use<Result>(_ page: PageNumber, _ access: AccessKind, _ body: (Words) -> Result) -> Result? {
        tlb.access(page, access, through: table) { entry -> Result? in
            if entry.location == .ownDevice { memory?.noteUse(of: entry.frame) }
            space.announceAccess(to: page, access)
            guard access == .atomic else { return body(window.words(of: entry.frame)) }
            guard space.hold(page, entry.frame) else { return nil }
            defer { space.letGo(page, entry.frame) }
            return body(window.words(of: entry.frame))
        } ?? nil
    }

    /// The word at `address`. Errors: those of a device fault; EINVAL where no word lies, which is at multiples of 8.
    public func load(_ address: VirtualAddress) throws(HMMError) -> UInt64 {
        let word = try Self.wordIndex(address)
        return try withPage(PageNumber(containing: address), for: .read) { $0[word].load(ordering: .relaxed) }
    }

    public func store(_ value: UInt64, at address: VirtualAddress) throws(HMMError) {
        let word = try Self.wordIndex(address)
        try withPage(PageNumber(containing: address), for: .write) { $0[word].store(value, ordering: .relaxed) }
    }

    static func wordIndex(_ address: VirtualAddress) throws(HMMError) -> Int {
        guard address.raw & 7 == 0 else { throw HMMError(.invalidArgument, "a word lies at a multiple of 8") }
        return Int(address.raw & 0xfff) >> 3
    }

    // MARK: Queued faults

    /// Queues a fault for `serveFaults`; false when the queue is full.
    public func enqueue(_ request: DeviceFaultRequest) -> Bool { queue.enqueue(request) }

    /// Serves one batch of queued faults. Answers how many were completed.
    public func serveFaults() -> Int { queue.drain() }

    public var queuedFaults: Int { queue.count }

    public func mapping(containing page: PageNumber) -> DeviceMapping? {
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        guard let mapping = space.mapping(endingAfter: page), mapping.pages.contains(page) else { return nil }
        return mapping
    }

    public func permits(_ page: PageNumber, _ access: AccessKind) -> Bool {
        table.lookup(page)?.allows(access) ?? false
    }

    public func fault(
        _ block: PageRange, _ requests: [(page: PageNumber, access: AccessKind)]
    ) throws(HMMError) {
        let plain = requests.filter { $0.access < .atomic }
        if !plain.isEmpty { try faultPlainly(block, plain) }
        for request in requests where request.access == .atomic { try withPage(request.page, for: .atomic) { _ in } }
    }

    private func faultPlainly(
        _ block: PageRange, _ requests: [(page: PageNumber, access: AccessKind)]
    ) throws(HMMError) {
        if case .onFault = placement, let mapping = mapping(containing: requests[0].page) {
            let strongest = requests.map(\.access).max() ?? .read
            if let pages = block.intersection(mapping.pages) { try placeAtFault(pages, strongest) }
        }
        try requireAttached()
        var range = HMMRange(interval, block)
        range.ownMemory = memory
        range.requestMask = [.fault, .write]
        range.isPrecise = true
        _ = try space.deviceFault(
            &range, policy: policy,
            prepare: { (range: inout HMMRange) throws(HMMError) in
                // The mapping may have been cut since the block was chosen: what lies outside is not looked at, unless
                // it was asked for.
                let mapping = space.mapping(endingAfter: requests[0].page)?.pages.intersection(block)
                let asked = requests[0].page..<requests[requests.count - 1].page.advanced(by: 1)
                let low = min(mapping?.lowerBound ?? asked.lowerBound, asked.lowerBound)
                range.retarget(low..<max(mapping?.upperBound ?? asked.upperBound, asked.upperBound))
                for request in requests {
                    range.setRequest(HMMPageRequest(for: request.access), at: low.distance(to: request.page))
                }
            },
            commit: { (range: borrowing HMMRange) throws(HMMError) -> Bool in try commit(range) })
    }

    public func resume(_ request: DeviceFaultRequest) { resumed?(request) }
    public func cancel(_ request: DeviceFaultRequest, _ error: HMMError) { cancelled?(request, error) }
}
