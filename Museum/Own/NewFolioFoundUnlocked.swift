import HMM
import HMMExplorer

extension Exhibit {
    static let newFolioFoundUnlocked = Exhibit(
        "new-folio-found-unlocked",
        source: "swift-hmm DeviceMemory.allocate(), found by this explorer",
        story: """
            A new folio of a device got its first reference, and was locked a moment later, which could not fail, \
            because nobody knew it. But eviction of all that a device has looks for used folios by the numbers of \
            their frames: in between it takes a reference and the lock, and the allocation traps. Fixed by a folio \
            that is locked before its first reference can be seen.
            """,
        kind: .assertion, strategy: .random
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let device = SmallDevice(scene.machine)
        scene.thread("migrate") {
            switch version {
            case .asItWas: allocate(scene, device)
            case .mended: _ = try space.prefetch(Place.pages(1), to: device.memory)
            }
        }
        scene.thread("evict") { _ = scene.machine.evictAll(of: device.memory) }
        scene.join()
        scene.check(try cpu.load(Place.base.address) == 1, "the page has lost its contents")
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// DeviceMemory.allocate() as it was, for a page that is not used after all.
private func allocate(_ scene: Scene, _ device: SmallDevice) {
    let frames = scene.machine.frames
    guard let head = device.memory.allocate() else { return }
    // Wrong: the state in which it was handed on, with a reference and without the lock.
    frames.unlockFolio(head)
    if frames.tryLockFolio(head) {
        frames.unlockFolio(head)
    } else {
        scene.fail("the lock of a new folio is somebody else's")
    }
    frames.put(head)
}
