import HMM
import HMMExplorer

extension Exhibit {
    static let exclusiveWithoutMapcount = Exhibit(
        "exclusive-without-mapcount",
        source: "mm: fixes for device-exclusive entries (hmm), v2, 17 patches, 2025-02; still in 6.12",
        story: """
            A device-exclusive entry keeps its reference and drops its map count. The page looks unmapped, so nobody \
            walks the reverse map to take the entry away, and it has a reference that nothing explains, so nobody \
            moves it: offlining its memory tries again for ever. The books show it first: an entry names the page and \
            no map count says so. Fixed by keeping the map count, and by walkers that \
            know the entry.
            """,
        kind: .invariant, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space)
        let frame = space.mappedFrame(Place.base)!
        scene.thread("device") {
            space.lockForReading()
            defer { space.unlockForReading() }
            switch version {
            case .asItWas: try makeDeviceExclusive(space, owner: driver.owner)
            case .mended: try space.makeExclusive(Place.base, owner: driver.owner).release()
            }
        }
        scene.thread("offline") { while !offline(space.machine, frame) { SyncThread.yield() } }
        scene.join()
        scene.check(try cpu.load(Place.base.address) == 1, "the page has lost its contents")
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// make_device_exclusive_range() of mm/rmap.c (6.12), as far as one small page is concerned.
private func makeDeviceExclusive(_ space: AddressSpace, owner: NotifierOwner) throws(HMMError) {
    let frames = space.machine.frames
    let frame = try space.reference(Place.base, [.write, .splitHuge])
    defer { frames.put(frame) }
    frames.lockFolio(frame)
    defer { frames.unlockFolio(frame) }
    let invalidation = space.beginInvalidation(.exclusive, Place.pages(1), owner: owner)
    if let pte = space.tables.lockPTE(Place.base) {
        let entry = space.tables.read(pte)
        if entry.isWritable, entry.frame == frame {
            space.replaceByExclusive(pte, frame)
            // Wrong: folio_remove_rmap_pte(), while the entry goes on naming the page.
            frames.removeMapping(frame)
        }
        space.tables.unlock(pte)
    }
    invalidation.end()
}

/// One turn of offline_pages(): migrates the page elsewhere. False: it is still there.
private func offline(_ machine: Machine, _ frame: FrameNumber) -> Bool {
    let frames = machine.frames
    guard frames.tryGet(frame) else { return true }
    defer { frames.put(frame) }
    frames.lockFolio(frame)
    defer { frames.unlockFolio(frame) }
    guard frames.mapping(ofHead: frame).isAnonymous, let new = frames.allocateFolio() else { return true }
    let isFirst = frames.tryLockFolio(new)
    precondition(isFirst, "a new page was locked")
    // Only what looks mapped is unmapped (migrate_folio_unmap).
    let isUnmapped = frames.mappingCount(frame) == 0 || machine.installMigrationEntries(frame)
    if isUnmapped { frames.copy(frame, to: new) }
    let hasMoved = isUnmapped && machine.moveIdentity(frame, to: new, isExclusive: { frames.refCount($0) == 1 })
    if hasMoved { frames.setFlags(new, machine.movingFlags(frame, to: new)) }
    machine.removeMigrationEntries(from: frame, to: hasMoved ? new : frame)
    frames.unlockFolio(new)
    frames.put(new)
    return hasMoved
}
