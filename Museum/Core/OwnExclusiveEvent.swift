import HMM
import HMMExplorer

extension Exhibit {
    static let ownExclusiveEvent = Exhibit(
        "own-exclusive-event",
        source: "MMU_NOTIFY_EXCLUSIVE without an owner (mm: fixes for device-exclusive entries, v1 and v2, 2025-02)",
        story: """
            Making a page exclusive is an invalidation. A driver that cannot tell its own one from those of others \
            moves its own sequence, finds that it must retry, makes the page exclusive again, and so on until a \
            timeout. Fixed by an event that carries its owner, which the owner's callback skips.
            """,
        kind: .livelock, strategy: .random, isExhaustive: true, stepLimit: 400
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space, filtersOwn: version == .mended)
        let page = Place.base
        scene.thread("device") {
            switch version {
            case .asItWas: while try !atomicFault(driver, page) {}
            case .mended:
                var policy = DeviceFaultPolicy()
                policy.owner = driver.owner
                _ = try space.exclusiveFault(page, interval: driver.interval, policy: policy) { frame, sequence in
                    driver.storeUnlessRetry(page, frame, sequence)
                }
            }
        }
        scene.thread("cpu") { _ = try cpu.fetchAdd(1, at: page.address) }
        scene.join(watching: driver)
        scene.check(try cpu.load(page.address) == 2, "the CPU's addition is lost")
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

extension SmallDriver {
    /// What drivers do with an exclusive page while its folio is locked. False: an invalidation came between.
    func storeUnlessRetry(_ page: PageNumber, _ frame: FrameNumber, _ sequence: UInt64) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        if interval.readRetry(sequence) { return false }
        storeLocked(page, frame, isWritable: true, isAtomic: true)
        return true
    }
}

/// nouveau_atomic_range_fault() of drivers/gpu/drm/nouveau/nouveau_svm.c, one round, had its events no owner.
private func atomicFault(_ driver: SmallDriver, _ page: PageNumber) throws(HMMError) -> Bool {
    let sequence = driver.interval.readBegin()
    driver.space.lockForReading()
    defer { driver.space.unlockForReading() }
    // The start of this moves the driver's own sequence: its callback does not know whose event it is.
    let grant = try driver.space.makeExclusive(page, owner: driver.owner)
    let isStored = driver.storeUnlessRetry(page, grant.frame, sequence)
    grant.release()
    return isStored
}
