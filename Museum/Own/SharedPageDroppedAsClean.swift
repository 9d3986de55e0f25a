import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let sharedPageDroppedAsClean = Exhibit(
        "shared-page-dropped-as-clean",
        source: "swift-hmm Machine.reclaimShared(), found by this explorer",
        story: """
            A page of shared memory that nobody has written is dropped by reclaim instead of going to swap: it is \
            zeros, and can be made again. Whether it was written was asked once, before the references were. Somebody \
            who had one (get_user_pages) writes in between, marks the page dirty and lets go: it is dropped all the \
            same, and reads as zero. Fixed by asking again when no reference is left.
            """,
        kind: .value, strategy: .pct(2)
    ) { scene, version in
        let machine = scene.machine
        let space = try machine.makeAddressSpace()
        let file = try machine.makeFile(pageCount: 1)
        try space.map(Place.pages(1), protection: .readWrite, kind: .sharedFile(file))
        let cpu = space.makeCPU()
        _ = try cpu.load(Place.base.address)
        space.lockForReading()
        let folio = try space.reference(Place.base, .write)
        space.unlockForReading()
        // It was dirty from then on, and has been written back since, which asks nobody who has a reference.
        machine.frames.clearFlags(folio, FrameFlags.dirty)
        switch version {
        case .asItWas:
            // Isolated, as MADV_PAGEOUT does with the table locked.
            machine.frames.get(folio)
            scene.thread("page out") { reclaimClean(folio, of: file, machine) }
        case .mended: scene.thread("page out") { try space.advise(Place.pages(1), .pageout) }
        }
        scene.thread("direct I/O") {
            machine.frames.words(of: folio)[0].store(2, ordering: .relaxed)
            space.release(folio, .write)
        }
        scene.join()
        let word = try cpu.load(Place.base.address)
        if word != 2 { scene.fail("the page has \(word), and 2 was written to it", kind: .value) }
        scene.expectInvariants()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// Machine.reclaim() as it was, for a page of a file that is isolated, as far as it has to do with clean ones.
private func reclaimClean(_ folio: FrameNumber, of file: FileMapping, _ machine: Machine) {
    let frames = machine.frames
    defer { frames.put(folio) }
    guard frames.tryLockFolio(folio) else { return }
    defer { frames.unlockFolio(folio) }
    guard machine.unmapForReclaim(folio), !frames.hasFlags(folio, FrameFlags.dirty) else { return }
    guard frames.freeze(folio, expected: 2) else { return }
    // Wrong: it was clean when somebody still had a reference.
    let isDropped = file.cache.replace(Int(frames.index(ofHead: folio)), .frame(folio), with: .empty)
    frames.unfreeze(folio, count: isDropped ? 1 : 2)
}
