import HMM
import HMMExplorer

extension Exhibit {
    static let exclusiveTrylock = Exhibit(
        "exclusive-trylock",
        source: "mm: fixes for device-exclusive entries (hmm), v2, last patch, 2025-02; still in 6.12",
        story: """
            make_device_exclusive() only tries the folio lock and answers -EBUSY when somebody has it. Reclaim has it \
            now and then for an instant, so an atomic access of the device fails though nothing is wrong. Fixed by \
            waiting for the lock and looking at the entry again.
            """,
        kind: .assertion, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space)
        let page = Place.base
        scene.thread("device") {
            space.lockForReading()
            defer { space.unlockForReading() }
            switch version {
            case .asItWas:
                let isGranted = try makeDeviceExclusive(space, page, owner: driver.owner)
                scene.check(isGranted, "the device gets -EBUSY for a page that is mapped, writable and anonymous")
            case .mended: try space.makeExclusive(page, owner: driver.owner).release()
            }
        }
        scene.thread("reclaim") { lookAtFolio(space, page) }
        scene.join()
        scene.check(try cpu.load(page.address) == 1, "the page has lost its contents")
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// What reclaim does to every folio of its list: locks it if that is free, finds it in use, and lets it go.
private func lookAtFolio(_ space: AddressSpace, _ page: PageNumber) {
    let frames = space.machine.frames
    guard let frame = space.mappedFrame(page), frames.tryGet(frame) else { return }
    if frames.tryLockFolio(frame) { frames.unlockFolio(frame) }
    frames.put(frame)
}

/// make_device_exclusive() of mm/rmap.c before the series. False is -EBUSY.
private func makeDeviceExclusive(
    _ space: AddressSpace, _ page: PageNumber, owner: NotifierOwner
) throws(HMMError) -> Bool {
    let frames = space.machine.frames
    let frame = try space.reference(page, [.write, .splitHuge])
    defer { frames.put(frame) }
    // Wrong: who has the lock will let it go, and the caller can do nothing about it.
    guard frames.tryLockFolio(frame) else { return false }
    defer { frames.unlockFolio(frame) }

    let invalidation = space.beginInvalidation(.exclusive, page..<page.advanced(by: 1), owner: owner)
    let isMade = convert(space, page, frame)
    invalidation.end()
    return isMade
}

private func convert(_ space: AddressSpace, _ page: PageNumber, _ frame: FrameNumber) -> Bool {
    guard let pte = space.tables.lockPTE(page) else { return false }
    defer { space.tables.unlock(pte) }
    let entry = space.tables.read(pte)
    guard entry.isWritable, entry.frame == frame else { return false }
    space.replaceByExclusive(pte, frame)
    return true
}
