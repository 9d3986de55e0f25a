import HMM
import HMMExplorer

extension Exhibit {
    static let deadlineMakesContentionAnError = Exhibit(
        "deadline-makes-contention-an-error",
        source: "hmm_range retry and locking, mails of 2019-06-07: hmm_range_wait_until_valid() with a timeout",
        story: """
            A device fault waits until nobody invalidates its range, for so long, and then gives up with -EBUSY. Under \
            load, while the kernel swaps or a program protects its pages again and again, an access to a valid mapping \
            fails obscurely. Answered by taking the mmap lock for writing after some rounds, which lets the others \
            finish and keeps new ones out.
            """,
        kind: .assertion, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space)
        scene.thread("device") {
            switch version {
            case .asItWas:
                let isServed = try faultWithDeadline(driver, rounds: 2)
                scene.check(isServed, "-EBUSY for an access to a page that is mapped and readable")
            case .mended: _ = try driver.fault(Place.base)
            }
        }
        scene.thread("mprotect") {
            for _ in 0..<2 {
                try space.protect(Place.pages(1), .read)
                try space.protect(Place.pages(1), .readWrite)
            }
        }
        scene.join(watching: driver)
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// The loop of hmm_vma_fault() and its drivers, with a number of rounds for the time that they waited.
private func faultWithDeadline(_ driver: SmallDriver, rounds: Int) throws(HMMError) -> Bool {
    let space = driver.space
    var range = HMMRange(driver.interval, Place.pages(1))
    range.defaultRequest = .fault
    for _ in 0..<rounds {
        range.sequence = driver.interval.readBegin()
        space.lockForReading()
        let outcome = try space.rangeFault(&range)
        space.unlockForReading()
        guard outcome == .done else { continue }
        driver.lock.lock()
        defer { driver.lock.unlock() }
        if range.mustRetry() { continue }
        driver.storeLocked(Place.base, range[0].frame, isWritable: range[0].isWritable)
        return true
    }
    // Wrong: what is the device to tell the program?
    return false
}
