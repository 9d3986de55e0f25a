import HMM
import HMMExplorer

extension Exhibit {
    static let slotUncachedInTwoSteps = Exhibit(
        "slot-uncached-in-two-steps",
        source: "swift-hmm SwapArea.removeCache(), found by this explorer",
        story: """
            When a page had been written to swap, its slot was taken out of the swap cache in one step, and the count \
            that the cache had held was dropped in the next. A write that faults in between reads the slot into a new \
            page of the cache, finds one count too many, takes it for another entry that needs the slot, and copies \
            the page instead of taking it. Nobody looks again when the count goes: the page and its slot stay for \
            ever. Fixed by one step for both.
            """,
        kind: .leftover, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        // A page that was shared once is not known to be its owner's alone, so a write asks the counts.
        try space.fork().exit()
        let folio = space.mappedFrame(Place.base)!
        switch version {
        case .asItWas:
            // Isolated, as MADV_PAGEOUT does with the table locked.
            scene.machine.frames.get(folio)
            scene.thread("page out") { reclaim(folio, scene.machine) }
        case .mended: scene.thread("page out") { try space.advise(Place.pages(1), .pageout) }
        }
        scene.thread("cpu") { try cpu.store(2, at: Place.base.address) }
        scene.join()
        scene.check(try cpu.load(Place.base.address) == 2, "the write is lost")
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
    let slot = machine.swapSlot(of: folio)
    swap.write(slot, from: frames.bytes(of: folio))
    frames.clearFlags(folio, FrameFlags.dirty)
    guard frames.freeze(folio, expected: 2) else { return machine.tryFreeSwap(folio) }
    // Wrong: one count more turns the one step of the core into the first of two, after which the count is still there.
    swap.get(slot)
    machine.forgetSwapCache(folio)
    swap.put(slot)
    frames.unfreeze(folio, count: 1)
}
