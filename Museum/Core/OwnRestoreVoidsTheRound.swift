import HMM
import HMMExplorer

extension Exhibit {
    static let ownRestoreVoidsTheRound = Exhibit(
        "own-restore-voids-the-round",
        source: "nouveau_svm.c nouveau_atomic_range_fault(), still so in 2025; found by this explorer",
        story: """
            A device wants a page for atomics that is exclusive already, because another one has it, or because a \
            round of its own was voided after the conversion. The write fault of make_device_exclusive() first takes \
            the page back, and that event has no owner: the driver's sequence moves, the round is void, the page is \
            exclusive again, and so it goes on alone until the timeout. Here the page is taken back before the \
            sequence is sampled.
            """,
        kind: .livelock, strategy: .random, isExhaustive: true, stepLimit: 400
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let drivers = [try SmallDriver(space, device: 1), try SmallDriver(space, device: 2)]
        for driver in drivers {
            scene.thread("device \(driver.owner.device)") {
                switch version {
                case .asItWas: while try !atomicFault(driver) {}
                case .mended:
                    var policy = DeviceFaultPolicy()
                    policy.owner = driver.owner
                    _ = try space.exclusiveFault(Place.base, interval: driver.interval, policy: policy) {
                        driver.storeUnlessRetry(Place.base, $0, $1)
                    }
                }
            }
        }
        scene.join(watching: drivers[0], drivers[1])
        drivers.forEach { $0.close() }
        space.removeCPU(cpu)
        space.exit()
    }
}

/// nouveau_atomic_range_fault(), one round of as many as it takes. Own events are filtered by their owner.
private func atomicFault(_ driver: SmallDriver) throws(HMMError) -> Bool {
    let sequence = driver.interval.readBegin()
    driver.space.lockForReading()
    defer { driver.space.unlockForReading() }
    // Wrong: if the page is exclusive, this begins with the event of a restore, which nobody owns.
    let grant = try driver.space.makeExclusive(Place.base, owner: driver.owner)
    let isStored = driver.storeUnlessRetry(Place.base, grant.frame, sequence)
    grant.release()
    return isStored
}
