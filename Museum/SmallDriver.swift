import HMM
import HMMExplorer

/// The smallest driver that can be right or wrong: one lock, one interval notifier, one table of pages.
///
/// Exhibits bring the operation that is wrong; this keeps what it stores, and drops what is invalidated.
final class SmallDriver: IntervalNotifierClient, ObjectNaming, @unchecked Sendable {
    struct Entry {
        var page: PageNumber
        var isWritable: Bool
        /// For atomic accesses to a page that is this device's alone.
        var isAtomic: Bool
        /// The frame, and whether it was freed since it was stored.
        var frame: FrameWatch
    }

    let space: AddressSpace
    let owner: NotifierOwner
    /// What it does with invalidations that it caused itself.
    let filtersOwn: Bool
    let lock = FairMutex(.driver)
    /// Set once, before the driver is used.
    private(set) var interval: IntervalNotifier!
    /// Guarded by `lock`.
    private(set) var entries: [Entry] = []

    /// A driver that mirrors the whole address space.
    init(_ space: AddressSpace, device: UInt32 = 1, filtersOwn: Bool = true) throws(HMMError) {
        self.space = space
        self.filtersOwn = filtersOwn
        owner = NotifierOwner(device: device, mirror: 1)
        interval = try space.notifiers.insert(self, over: PageNumber(0)..<Geometry.endPage)
    }

    /// No callback runs afterwards. Called by a program that runs alone, before it exits the address space.
    func close() {
        interval.remove()
        lock.withLock { entries.removeAll() }
    }

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if filtersOwn, range.owner == owner { return true }
        if range.isBlockable {
            lock.lock()
        } else if !lock.tryLock() {
            return false
        }
        notifier.setSequence(sequence)
        entries.removeAll { range.pages.contains($0.page) }
        lock.unlock()
        return true
    }

    func objectName(at address: UInt) -> String? { address == lock.address ? "driver lock" : nil }

    /// Caller holds `lock`.
    func storeLocked(_ page: PageNumber, _ frame: FrameNumber, isWritable: Bool, isAtomic: Bool = false) {
        entries.removeAll { $0.page == page }
        let watch = FrameWatch(frame, in: space.machine.frames)
        entries.append(Entry(page: page, isWritable: isWritable, isAtomic: isAtomic, frame: watch))
    }

    /// Caller holds `lock`.
    func entryLocked(_ page: PageNumber) -> Entry? { entries.first { $0.page == page } }

    /// The first entry that says more than the CPU's page table or mapping, when nobody moves.
    var staleEntry: String? {
        for entry in entries {
            guard let mapped = space.mappedFrame(entry.page) else { return "\(entry.page) is mirrored, but not mapped" }
            if entry.frame.wasFreed { return "\(entry.page) is mirrored by a frame that was freed" }
            if mapped != entry.frame.frame { return "\(entry.page) is mirrored by another frame than it has" }
            if entry.isAtomic != space.isExclusive(entry.page) {
                return entry.isAtomic
                    ? "\(entry.page) is atomic for the device, but not exclusive"
                    : "\(entry.page) is mirrored, but exclusive to another device"
            }
            if entry.isWritable, space.protection(at: entry.page)?.contains(.write) != true {
                return "\(entry.page) is writable for the device, but its mapping is not"
            }
        }
        return nil
    }
}

extension SmallDriver {
    /// The loop of a device fault, as the core has it: sequence first, then everything else. Answers the rounds.
    func fault(_ page: PageNumber, write: Bool = false, memory: DeviceMemory? = nil) throws(HMMError) -> Int {
        var range = HMMRange(interval, page..<page.advanced(by: 1))
        range.defaultRequest = write ? [.fault, .write] : .fault
        range.ownMemory = memory
        return try space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
            lock.lock()
            defer { lock.unlock() }
            if range.mustRetry() { return false }
            storeLocked(page, range[0].frame, isWritable: range[0].isWritable)
            return true
        }
    }
}

extension Scene {
    /// Runs all threads; what one of the drivers has stale whenever nobody holds a lock, or in the end, is a finding.
    func join(watching drivers: SmallDriver...) {
        let look = { drivers.lazy.compactMap(\.staleEntry).first }
        always(.staleMirror, look)
        join()
        if let stale = look() { fail(stale, kind: .staleMirror) }
    }
}
