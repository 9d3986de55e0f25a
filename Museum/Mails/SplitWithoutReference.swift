import HMM
import HMMExplorer

extension Exhibit {
    static let splitWithoutReference = Exhibit(
        "split-without-reference",
        source: "[PATCH 4/6] mm: setup device page migration in HMM pagewalk, as posted: migrate_vma_split_folio()",
        story: """
            The walk meets an entry of a large folio, drops the table lock, and calls a helper that takes a reference \
            and locks the folio in order to split it. Between the two nothing keeps the folio: a MADV_DONTNEED frees \
            it, and the helper locks and splits what belongs to somebody else. The reference has to be taken before \
            the table lock is dropped.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 4)
        let device = SmallDevice(scene.machine)
        try space.makeLargeFolio(at: Place.base)
        scene.thread("device") {
            switch version {
            case .asItWas: splitFolio(scene, space, Place.base)
            case .mended: _ = try space.prefetch(Place.pages(1), to: device.memory)
            }
        }
        scene.thread("madvise") { try space.advise(Place.pages(4), .dontneed) }
        scene.join()
        _ = try space.evict(Place.pages(4), from: device.memory)
        scene.check(try cpu.load(Place.base.address) == 0, "a page that was given up has its old contents")
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// hmm_vma_handle_migrate_prepare() up to the restart, with migrate_vma_split_folio() of mm/hmm.c as posted.
private func splitFolio(_ scene: Scene, _ space: AddressSpace, _ page: PageNumber) {
    let machine = space.machine
    let frames = machine.frames
    space.lockForReading()
    defer { space.unlockForReading() }
    guard let pte = space.tables.lockPTE(page) else { return }
    let entry = space.tables.read(pte)
    guard entry.isPresent, frames.isLarge(entry.frame) else { return space.tables.unlock(pte) }
    let folio = FrameWatch(frames.head(of: entry.frame), in: frames)
    space.tables.unlock(pte)

    // Wrong: folio_get() of whatever is there now. The reference that is held keeps the model sane.
    guard frames.hold(folio) else {
        return scene.fail("folio_get() of \(folio.frame), which is free by now", kind: .useAfterFree)
    }
    defer { frames.put(folio.frame) }
    frames.lockFolio(folio.frame)
    defer { frames.unlockFolio(folio.frame) }
    if frames.isLarge(folio.frame) { _ = machine.splitFolio(folio.frame) }
}
