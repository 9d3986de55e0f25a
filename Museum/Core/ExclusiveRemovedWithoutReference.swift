import HMM
import HMMExplorer

extension Exhibit {
    static let exclusiveRemovedWithoutReference = Exhibit(
        "exclusive-removed-without-reference",
        source: "7c7b962938dd (mm: take a page reference when removing device exclusive entries)",
        story: """
            A CPU faults on a device-exclusive entry and locks the page that it names, without a reference. Somebody \
            else restores the entry first and takes the page away; the lock is taken on a page that belongs to nobody, \
            or to another. Fixed by a reference that is only taken while there is one.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try SmallDriver(space)
        let page = Place.base
        space.lockForReading()
        try space.makeExclusive(page, owner: driver.owner).release()
        space.unlockForReading()
        scene.thread("cpu") {
            switch version {
            case .asItWas: removeDeviceExclusiveEntry(scene, space, page)
            case .mended: _ = try cpu.load(page.address)
            }
        }
        scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
        scene.join()
        scene.check(try cpu.load(page.address) == 0, "a page that was given up has its old contents")
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// remove_device_exclusive_entry() of mm/memory.c, one turn of the fault that calls it.
private func removeDeviceExclusiveEntry(_ scene: Scene, _ space: AddressSpace, _ page: PageNumber) {
    let frames = space.machine.frames
    space.lockForReading()
    defer { space.unlockForReading() }
    guard let pte = space.tables.entry(page, .pte) else { return }
    schedulingPoint(.load, on: UInt(bitPattern: pte))
    guard let leaf = space.tables.read(pte).softLeaf, leaf.kind == .deviceExclusive else { return }
    let folio = FrameWatch(leaf.frame, in: frames)

    // Wrong: folio_lock_or_retry() here, whether or not anybody still has a reference. The one that is held from now on
    // keeps the model sane; history had none.
    guard frames.hold(folio) else {
        return scene.fail("the fault locks \(folio.frame), which is free by now", kind: .useAfterFree)
    }
    defer { frames.put(folio.frame) }
    frames.lockFolio(folio.frame)
    defer { frames.unlockFolio(folio.frame) }

    let invalidation = space.beginInvalidation(.exclusive, page..<page.advanced(by: 1))
    space.tables.lock(pte)
    if space.tables.read(pte) == leaf.entry {
        space.tables.set(pte, PageTableEntry.present(leaf.frame).writable())
    }
    space.tables.unlock(pte)
    invalidation.end()
}
