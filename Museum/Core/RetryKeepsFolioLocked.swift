import HMM
import HMMExplorer

extension Exhibit {
    static let retryKeepsFolioLocked = Exhibit(
        "retry-keeps-folio-locked",
        source: "b3fefbb30a16 (nouveau/svm, 2025-01): unlock and put were missing in the retry of an atomic fault",
        story: """
            make_device_exclusive() returns the folio locked. When the sequence has moved, the driver goes round its \
            loop without unlocking it; in the next round the write fault wants to take the page back, and waits for \
            the lock that its own thread has. Fixed by unlocking before the retry.
            """,
        kind: .lockOrder, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space)
        scene.thread("device") {
            switch version {
            case .asItWas:
                var kept: ExclusiveGrant?
                try atomicRangeFault(driver, &kept)
            case .mended:
                var policy = DeviceFaultPolicy()
                policy.owner = driver.owner
                _ = try space.exclusiveFault(Place.base, interval: driver.interval, policy: policy) {
                    driver.storeUnlessRetry(Place.base, $0, $1)
                }
            }
        }
        scene.thread("mprotect") { try space.protect(Place.pages(1), [.read, .write, .execute]) }
        scene.join(watching: driver)
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// nouveau_atomic_range_fault() of drivers/gpu/drm/nouveau/nouveau_svm.c before the fix.
private func atomicRangeFault(_ driver: SmallDriver, _ kept: inout ExclusiveGrant?) throws(HMMError) {
    while true {
        let sequence = driver.interval.readBegin()
        driver.space.lockForReading()
        let grant: ExclusiveGrant
        do throws(HMMError) {
            grant = try driver.space.makeExclusive(Place.base, owner: driver.owner)
        } catch {
            driver.space.unlockForReading()
            throw error
        }
        driver.space.unlockForReading()
        let isStored = driver.storeUnlessRetry(Place.base, grant.frame, sequence)
        if isStored { return grant.release() }
        // Wrong: folio_unlock() and folio_put() belong here.
        kept = consume grant
    }
}
