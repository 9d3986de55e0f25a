import HMM
import HMMExplorer

extension Exhibit {
    static let sharedMappingRetried = Exhibit(
        "shared-mapping-retried",
        source: "UVM bug 4014681 (comment in uvm_hmm.c of the open NVIDIA driver)",
        story: """
            A GPU wants to compute atomically on a page of a shared mapping. Such a page cannot become exclusive, and \
            make_device_exclusive_range says so only by granting nothing, which a driver takes for a race and tries \
            again, for ever. No second thread is needed. Mended: the core refuses up front with an error.
            """,
        kind: .livelock, isExhaustive: true
    ) { scene, version in
        let space = try scene.machine.makeAddressSpace()
        try space.map(Place.pages(1), protection: .readWrite, kind: .sharedAnonymous)
        let driver = try Subscription(to: space, over: Place.pages(1))
        var policy = DeviceFaultPolicy()
        policy.owner = NotifierOwner(device: 1, mirror: 1)
        var isRefused = false
        scene.thread("gpu atomic") {
            switch version {
            case .asItWas: while try !grantAny(of: space) {}
            case .mended:
                do throws(HMMError) {
                    _ = try space.exclusiveFault(Place.base, interval: driver.interval, policy: policy) {
                        _, sequence throws(HMMError) in driver.lock.withLock { !driver.interval.readRetry(sequence) }
                    }
                } catch {
                    isRefused = error.code == .notSupported
                }
            }
        }
        scene.join()
        scene.check(isRefused, "a page of a shared mapping became exclusive")
        driver.remove()
        space.exit()
    }

    /// One round of the driver: true if the page was granted.
    private static func grantAny(of space: AddressSpace) throws(HMMError) -> Bool {
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        return try space.makeExclusiveBatch(Place.pages(1)).granted.contains { $0 != .none }
    }
}
