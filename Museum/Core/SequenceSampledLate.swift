import HMM
import HMMExplorer

extension Exhibit {
    static let sequenceSampledLate = Exhibit(
        "sequence-sampled-late",
        source: "13ec9308a857 (KVM: arm64), and its twin in RISC-V",
        story: """
            The device's fault looks the mapping up, drops the mmap lock, and only then samples the sequence. An \
            mprotect that comes and goes between the two is not noticed, and the device installs the rights that the \
            mapping had before. Fixed by sampling before the mmap lock is dropped.
            """,
        kind: .staleMirror, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space)
        let page = Place.base
        scene.thread("device") {
            switch version {
            case .asItWas: while try !userMemoryAbort(driver, page) {}
            case .mended: _ = try driver.fault(page)
            }
        }
        scene.thread("mprotect") { try space.protect(Place.pages(1), .read) }
        scene.join(watching: driver)
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// user_mem_abort() of arch/arm64/kvm/mmu.c: false when the caller has to try again.
private func userMemoryAbort(_ driver: SmallDriver, _ page: PageNumber) throws(HMMError) -> Bool {
    let space = driver.space
    space.lockForReading()
    let isWritable = space.protection(at: page)?.contains(.write) ?? false
    space.unlockForReading()

    // Wrong: what was found above may be of the past by now, and nobody will ever know.
    var range = HMMRange(driver.interval, page..<page.advanced(by: 1))
    range.sequence = driver.interval.readBegin()
    range.defaultRequest = .fault
    space.lockForReading()
    defer { space.unlockForReading() }
    guard try space.rangeFault(&range) == .done else { return false }

    driver.lock.lock()
    defer { driver.lock.unlock() }
    if range.mustRetry() { return false }
    driver.storeLocked(page, range[0].frame, isWritable: isWritable)
    return true
}
