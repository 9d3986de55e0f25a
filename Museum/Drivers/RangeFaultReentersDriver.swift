import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let rangeFaultReentersDriver = Exhibit(
        "range-fault-reenters-driver",
        source: "a6283010e290 drm/amdkfd: hmm_range_fault re-enters the driver",
        story: """
            A GPU write fault maps a range while it holds the range's migration mutex. The driver takes the range to \
            be in system memory, but a failed migration left one page behind in its own. hmm_range_fault brings that \
            page home through the driver's fault handler, which takes the same mutex in the same task. Mended: the \
            handler knows the task that maps, and refuses; the task moves the page home itself and tries again.
            """,
        kind: .deadlock, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        let driver = try PartlyMigratedRange(space, version)
        // The first page may only be read: nothing but the shared zeros is there.
        try space.advise(Place.pages(1), .dontneed)
        _ = try cpu.load(Place.base.address)
        scene.thread("gpu fault") { try driver.mapForWriting() }
        scene.join()
        scene.check(try cpu.load(Place.base.advanced(by: 1).address) == 2, "the page lost its contents")
        try driver.close()
        space.exit()
    }
}

/// A range of two pages of which the second one is stuck in device memory.
private final class PartlyMigratedRange: DevicePrivateFaultHandler, @unchecked Sendable {
    // Immutable.
    private let space: AddressSpace
    private let version: Exhibit.Version
    private let memory: DeviceMemory
    private let subscription: Subscription
    /// Serialises migrations and mappings of the range; inside mmap.
    private let migrateLock = SleepLock()
    /// Who maps the range at this moment, or 0. Written under `migrateLock`.
    private let faultingTask = Atomic<UInt>(0)

    init(_ space: AddressSpace, _ version: Exhibit.Version) throws {
        (self.space, self.version) = (space, version)
        let machine = space.machine
        memory = DeviceMemory(kind: .private, owner: 1, limitBytes: 1 << 20, frames: machine.frames)
        subscription = try Subscription(to: space, over: Place.pages(2))
        machine.setPrivateFaultHandler(self, for: memory)
        let second = Place.pages(1, from: Place.base.advanced(by: 1))
        _ = try space.prefetch(second, to: memory)
    }

    func mapForWriting() throws {
        while try !mapOrEvict() {}
    }

    private func mapOrEvict() throws(HMMError) -> Bool {
        do throws(HMMError) {
            return try mapOnce()
        } catch {
            guard error.code == .badAddress, version == .mended else { throw error }
            _ = try space.evict(Place.pages(2), from: memory)
            return false
        }
    }

    private func mapOnce() throws(HMMError) -> Bool {
        var range = HMMRange(subscription.interval, Place.pages(2))
        range.defaultRequest = [.fault, .write]
        range.sequence = range.interval.readBegin()
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        migrateLock.lock()
        defer { migrateLock.unlock() }
        faultingTask.store(SyncThread.identity, ordering: .relaxed)
        defer { faultingTask.store(0, ordering: .relaxed) }
        guard try space.rangeFault(&range) == .done else { return false }
        subscription.lock.lock()
        defer { subscription.lock.unlock() }
        return !range.mustRetry()
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        if version == .mended, faultingTask.load(ordering: .relaxed) == SyncThread.identity {
            throw HMMError(.busy, "the range is being mapped by this task")
        }
        migrateLock.lock()
        defer { migrateLock.unlock() }
        try space.bringHome(page, frame, from: memory)
    }

    func close() throws {
        subscription.remove()
        try space.machine.remove(memory)
        space.machine.setPrivateFaultHandler(nil, for: memory)
    }
}
