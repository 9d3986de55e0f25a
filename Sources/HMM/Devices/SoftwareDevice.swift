import Synchronization

/// A device made of software that computes on the memory of one address space: it has a page table, a TLB that is shot
/// down, and replayable faults.
///
/// Lock order: mmap > `driverLock` > the table's directories. Accesses hold no lock while they fault.
public final class SoftwareDevice: IntervalNotifierClient, FaultQueueDelegate, @unchecked Sendable {
    /// The 512 words of a page.
    public typealias Words = UnsafeMutablePointer<Atomic<UInt64>>

    // Immutable.
    public let owner: NotifierOwner
    public let space: any DeviceAddressSpace
    public let policy: DeviceFaultPolicy
    private let window: FrameWindow
    public let tlb: DeviceTLB
    /// Invariant: INV-MT-4, INV-MT-5, by the notifier protocol.
    public let table: RadixMirror
    let driverLock = FairMutex(.driver)
    /// Set once by `start`.
    private var interval: IntervalNotifier!
    private var queue: FaultQueue!
    private let isAttached = Atomic<Bool>(false)

    /// Told what became of queued faults; set before the first is queued.
    public var resumed: (@Sendable (DeviceFaultRequest) -> Void)?
    public var cancelled: (@Sendable (DeviceFaultRequest, HMMError) -> Void)?

    /// Attaches a device to the address space. Errors: EINVAL when that is gone.
    ///
    /// - Parameter index: names the device as a party in invalidations; unique in the machine.
    public static func attach(
        to space: any DeviceAddressSpace, index: Int, policy: DeviceFaultPolicy = .init(),
        mirror: MirrorConfiguration = .init(), coalescing: FaultCoalescing = .init()
    ) throws(HMMError) -> SoftwareDevice {
        let device = SoftwareDevice(space, index: index, policy: policy, mirror: mirror)
        device.queue = FaultQueue(device, coalescing)
        device.interval = try space.notifiers.insert(device, over: PageNumber(0)..<Geometry.endPage)
        device.isAttached.store(true, ordering: .releasing)
        return device
    }

    private init(
        _ space: any DeviceAddressSpace, index: Int, policy: DeviceFaultPolicy, mirror: MirrorConfiguration
    ) {
        self.space = space
        owner = NotifierOwner(device: UInt32(index), mirror: 1)
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

    deinit { precondition(!isAttached.load(ordering: .relaxed), "an attached device was dropped") }

    /// Ends all mirroring. No access may be under way.
    public func detach() {
        let wasAttached = isAttached.exchange(false, ordering: .acquiringAndReleasing)
        precondition(wasAttached, "a device was detached twice")
        interval.remove()
        driverLock.withLock { _ = table.invalidate(interval.pages, keeping: .nothingAndPrune, isBlockable: true) }
    }

    // MARK: Invalidation

    public func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if range.isBlockable {
            driverLock.lock()
        } else if !driverLock.tryLock() {
            return false
        }
        defer { driverLock.unlock() }
        notifier.setSequence(sequence)
        guard let pages = range.pages.intersection(notifier.pages) else { return true }
        return table.invalidate(pages, keeping: .forEvent(range, owner: owner), isBlockable: range.isBlockable)
    }

    // MARK: Faults

    /// Makes the pages available for an access, all of them asked for alike. Answers the number of rounds.
    public func fault(_ pages: PageRange, _ access: AccessKind) throws(HMMError) -> Int {
        try refuseAtomics(access)
        var range = HMMRange(interval, pages)
        range.defaultRequest = HMMPageRequest(for: access)
        return try space.deviceFault(&range, policy: policy) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
            try commit(range)
        }
    }

    /// Atomic accesses need pages of the device's own, or exclusive ones, and this device takes neither.
    private func refuseAtomics(_ access: AccessKind) throws(HMMError) {
        guard access < .atomic else { throw HMMError(.notSupported, "the device makes no atomic accesses") }
    }

    /// Writes what a range fault found into the mirror, if it is still so.
    private func commit(_ range: borrowing HMMRange) throws(HMMError) -> Bool {
        var runs: [MirrorRun] = []
        range.forEachValidRun { run in
            runs.append(
                MirrorRun(
                    pages: run.pages, firstFrame: run.firstFrame, isWritable: run.isWritable, order: run.order))
        }
        driverLock.lock()
        defer { driverLock.unlock() }
        guard !range.mustRetry() else { return false }
        try table.commit(runs)
        return true
    }

    // MARK: Accesses

    /// Runs `body` on the words of the page through the device's translation, faulting until there is one with the
    /// right. `body` must not wait, nor access other pages.
    public func withPage<Result>(
        _ page: PageNumber, for access: AccessKind, _ body: (Words) -> Result
    ) throws(HMMError) -> Result {
        while true {
            let result = tlb.access(page, access, through: table) { entry in body(window.words(of: entry.frame)) }
            if let result { return result }
            _ = try fault(page..<page.advanced(by: 1), access)
        }
    }

    /// The word at `address`, which is a multiple of 8.
    public func load(_ address: VirtualAddress) throws(HMMError) -> UInt64 {
        let word = Self.wordIndex(address)
        return try withPage(PageNumber(containing: address), for: .read) { $0[word].load(ordering: .relaxed) }
    }

    public func store(_ value: UInt64, at address: VirtualAddress) throws(HMMError) {
        let word = Self.wordIndex(address)
        try withPage(PageNumber(containing: address), for: .write) { $0[word].store(value, ordering: .relaxed) }
    }

    private static func wordIndex(_ address: VirtualAddress) -> Int {
        precondition(address.raw & 7 == 0, "a word lies at a multiple of 8")
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
        for request in requests { try refuseAtomics(request.access) }
        var range = HMMRange(interval, block)
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
