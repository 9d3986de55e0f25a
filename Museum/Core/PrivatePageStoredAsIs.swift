import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let privatePageStoredAsIs = Exhibit(
        "private-page-stored-as-is",
        source: "lib/test_hmm.c dmirror_do_fault, still in 6.12; found by reading",
        story: """
            A page in the test driver's own memory has no bytes; they are in a backing page, which a migration stores \
            in the mirror. A fault stores whatever hmm_range_fault() reports, for such a page the page itself. When an \
            mprotect has cleared the mirror and the device reads again, memcpy() runs on a page without memory. Fixed \
            by storing the backing page there too.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space)
        let device = SmallDevice(scene.machine)
        let backing = scene.machine.frames.allocateFolio()!
        try device.take(Place.pages(1), of: space)
        scene.machine.frames.copy(space.mappedFrame(Place.base)!, to: backing)
        driver.lock.withLock { driver.storeLocked(Place.base, backing, isWritable: true) }
        scene.thread("device") { try read(scene, driver, device, backing, version) }
        scene.thread("mprotect") { try space.protect(Place.pages(1), .read) }
        scene.join()
        driver.close()
        _ = try space.evict(Place.pages(1), from: device.memory)
        scene.machine.frames.put(backing)
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// dmirror_read() of the page, once over before and once after whatever the others do.
private func read(
    _ scene: Scene, _ driver: SmallDriver, _ device: SmallDevice, _ backing: FrameNumber, _ version: Exhibit.Version
) throws(HMMError) {
    while true {
        driver.lock.lock()
        if let entry = driver.entryLocked(Place.base) {
            defer { driver.lock.unlock() }
            guard case .device(_, .private) = driver.space.place(of: entry.frame.frame) else {
                let word = driver.space.frameWindow.words(of: entry.frame.frame)[0].load(ordering: .relaxed)
                return scene.check(word == 1, "the device reads other contents")
            }
            return scene.fail("memcpy() from \(entry.frame.frame), which has no memory", kind: .useAfterFree)
        }
        driver.lock.unlock()
        try fault(driver, device, backing, version)
    }
}

/// dmirror_do_fault().
private func fault(
    _ driver: SmallDriver, _ device: SmallDevice, _ backing: FrameNumber, _ version: Exhibit.Version
) throws(HMMError) {
    var range = HMMRange(driver.interval, Place.pages(1))
    range.defaultRequest = .fault
    range.ownMemory = device.memory
    _ = try driver.space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
        driver.lock.lock()
        defer { driver.lock.unlock() }
        if range.mustRetry() { return false }
        let frame = range[0].frame
        let isOwn = device.memory.contains(frame)
        // Wrong: hmm_pfn_to_page(*pfns) as it is; a page of our own is BACKING_PAGE(page) everywhere else.
        let stored = isOwn && version == .mended ? backing : frame
        driver.storeLocked(Place.base, stored, isWritable: range[0].isWritable)
        return true
    }
}
