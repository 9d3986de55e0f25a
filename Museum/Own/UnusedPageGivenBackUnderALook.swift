import HMM
import HMMExplorer

extension Exhibit {
    static let unusedPageGivenBackUnderALook = Exhibit(
        "unused-page-given-back-under-a-look",
        source: "swift-hmm FrameTable.freeUnusedSingles(), found by this explorer",
        story: """
            Of two CPUs that fault on one page, one has allocated for nothing, and gave its page back by setting the \
            reference count to zero: nobody could know the page. But who has read an entry of the frame's former life \
            takes a reference by tryGet(), to find out that the entry has changed, and drops it again, from a count \
            that is zero or somebody else's by then. Fixed by dropping one's own reference only.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let space = try scene.machine.makeAddressSpace()
        try space.map(Place.pages(1), protection: .readWrite, kind: .anonymous())
        let cpus = (0..<2).map { _ in space.makeCPU() }
        // The VMA has its reverse map, and the frame that comes next has a former life.
        try cpus[0].store(1, at: Place.base.address)
        try space.advise(Place.pages(1), .dontneed)
        let frames = scene.machine.frames
        let former = frames.allocateFolio()!
        frames.put(former)

        scene.thread("look") { if frames.tryGet(former) { frames.put(former) } }
        switch version {
        case .asItWas: scene.thread("loser of a fault") { allocateForNothing(scene) }
        case .mended:
            for (index, cpu) in cpus.enumerated() {
                scene.thread("cpu \(index)") { try cpu.store(1, at: Place.base.address) }
            }
        }
        scene.join()
        scene.expectInvariants()
        cpus.forEach(space.removeCPU)
        space.exit()
    }
}

/// What a fault did that found the entry filled when it had locked the table.
private func allocateForNothing(_ scene: Scene) {
    let frames = scene.machine.frames
    guard let frame = frames.allocateFolio() else { return }
    // Wrong: the count was set to zero, whatever it was. Here it is looked at, and the model goes on in its right mind.
    let count = frames.refCount(frame)
    if count != 1 {
        scene.fail("\(frame) is freed while \(count - 1) others have references", kind: .useAfterFree)
    }
    frames.put(frame)
}
