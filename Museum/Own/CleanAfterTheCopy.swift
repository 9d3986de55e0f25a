import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let cleanAfterTheCopy = Exhibit(
        "clean-after-the-copy",
        source: "swift-hmm Machine.reclaimAnonymous(), found by this explorer",
        story: """
            Reclaim copied a page to its slot, called it clean, and gave it up when nobody else had a reference any \
            more. Somebody who had one (get_user_pages) writes without an entry: after the copy, and lets go, marking \
            the page dirty, before the references are looked at. The write is lost. Fixed by making it clean before \
            the copy, and by looking again when no reference is left.
            """,
        kind: .value, strategy: .pct(2)
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let machine = scene.machine
        space.lockForReading()
        let folio = try space.reference(Place.base, .write)
        space.unlockForReading()
        switch version {
        case .asItWas:
            // Isolated, as MADV_PAGEOUT does with the table locked.
            machine.frames.get(folio)
            scene.thread("page out") { reclaim(folio, machine) }
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

/// Machine.reclaim() as it was, for an anonymous page that is isolated.
private func reclaim(_ folio: FrameNumber, _ machine: Machine) {
    let (frames, swap) = (machine.frames, machine.swap)
    defer { frames.put(folio) }
    guard frames.tryLockFolio(folio) else { return }
    defer { frames.unlockFolio(folio) }
    guard machine.addToSwap(folio) else { return }
    guard machine.unmapForReclaim(folio) else { return machine.tryFreeSwap(folio) }
    swap.write(machine.swapSlot(of: folio), from: frames.bytes(of: folio))
    // Wrong: what was written since the copy counts as copied. And nobody asked again with no reference left.
    frames.clearFlags(folio, FrameFlags.dirty)
    guard frames.freeze(folio, expected: 2) else { return machine.tryFreeSwap(folio) }
    machine.forgetSwapCache(folio)
    frames.unfreeze(folio, count: 1)
}
