import HMM
import Synchronization

/// The smallest driver that mirrors a range: a radix table, a lock, a fault loop. It uses the public surface only, and
/// whatever it costs is part of what is measured.
final class BenchDriver: IntervalNotifierClient, @unchecked Sendable {
    let table = RadixMirror()
    private let space: any DeviceAddressSpace
    /// The user lock: guards commits against invalidations.
    private let lock = FairMutex(.driver)
    /// Set once by `init`.
    private(set) var interval: IntervalNotifier!
    /// Reused by every commit. Guarded by `lock`.
    private var runs: [MirrorRun] = []

    /// Pages of one device fault.
    static let chunkPages = 512
    static let owner = NotifierOwner(device: 1, mirror: 1)

    init(_ space: any DeviceAddressSpace, over pages: PageRange) throws {
        self.space = space
        runs.reserveCapacity(Self.chunkPages)
        interval = try space.notifiers.insert(self, over: pages)
    }

    /// No callback runs afterwards.
    func close() {
        interval.remove()
        table.tearDown()
    }

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if range.isBlockable {
            lock.lock()
        } else if !lock.tryLock() {
            return false
        }
        defer { lock.unlock() }
        // The device's own: it only changes who else may use the page.
        if range.event == .exclusive, range.owner == Self.owner { return true }
        notifier.setSequence(sequence)
        // Everything goes, whatever the event would permit to stay: the worst case.
        return table.invalidate(range.pages, keeping: .nothing, isBlockable: range.isBlockable)
    }

    /// Makes the pages available to the device.
    func fault(_ pages: PageRange, for access: AccessKind) throws {
        var first = pages.lowerBound
        var range = HMMRange(interval, first..<first, capacity: min(Self.chunkPages, pages.pageCount))
        range.defaultRequest = HMMPageRequest(for: access)
        while first < pages.upperBound {
            let end = min(first.advanced(by: Self.chunkPages), pages.upperBound)
            range.retarget(first..<end)
            _ = try space.deviceFault(
                &range,
                commit: { (range: borrowing HMMRange) throws(HMMError) -> Bool in
                    lock.lock()
                    defer { lock.unlock() }
                    return range.mustRetry() ? false : try store(range)
                })
            first = end
        }
    }

    /// Writes the results to the table. The lock is held.
    private func store(_ range: borrowing HMMRange) throws(HMMError) -> Bool {
        runs.removeAll(keepingCapacity: true)
        range.forEachValidRun { run in
            runs.append(
                MirrorRun(
                    pages: run.pages, firstFrame: run.firstFrame, isWritable: run.isWritable, order: run.order))
        }
        try table.commit(runs)
        return true
    }

    /// Maps what a migration has moved to the device's own memory. Its pages are locked until it is finished, so no
    /// sequence is checked.
    func map(_ migration: borrowing Migration) throws(HMMError) {
        lock.lock()
        defer { lock.unlock() }
        runs.removeAll(keepingCapacity: true)
        migration.forEachMovedRun { run in
            runs.append(
                MirrorRun(
                    pages: run.pages, firstFrame: run.firstFrame, isWritable: run.isWritable, order: run.order,
                    location: .ownDevice))
        }
        try table.commit(runs)
    }

    /// Adds to the first word of a page that the device takes exclusively.
    func add(_ value: UInt64, to page: PageNumber, in space: AddressSpace) throws {
        var policy = DeviceFaultPolicy()
        policy.owner = Self.owner
        let window = space.frameWindow
        _ = try space.exclusiveFault(page, interval: interval, policy: policy) {
            (frame: FrameNumber, sequence: UInt64) throws(HMMError) -> Bool in
            lock.lock()
            defer { lock.unlock() }
            guard !interval.readRetry(sequence) else { return false }
            try table.commit(
                MirrorRun(
                    pages: page..<page.advanced(by: 1), firstFrame: frame, isWritable: true, isAtomic: true))
            window.words(of: frame)[0].wrappingAdd(value, ordering: .acquiringAndReleasing)
            return true
        }
    }

    /// The pages that the device has, and a sum over their frames' numbers.
    func contents(_ pages: PageRange) -> (pages: Int, sum: UInt64) {
        var count = 0
        var sum: UInt64 = 0
        table.forEachRun(in: pages) { run in
            count += run.pages.pageCount
            for page in run.pages { sum = sum &* 31 &+ UInt64(run.frame(at: page).raw) }
        }
        return (count, sum)
    }
}
