import HMM
import HMMExplorer

extension Exhibit {
    static let splitWaitsWithLocksHeld = Exhibit(
        "split-waits-with-locks-held",
        source: "[PATCH 4/6] mm: setup device page migration in HMM pagewalk, as posted: folio_lock() in the split",
        story: """
            A walk that collects pages holds their folio locks, and may only try those of others: the patch says so \
            where it collects, and waits for the lock of a large folio where it splits. Two migrations that meet each \
            other's folios in opposite order wait for each other. The split has to try the lock, and leave the page.
            """,
        kind: .lockOrder, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 8)
        let device = SmallDevice(scene.machine)
        let single = Place.base.advanced(by: 3)
        let large = Place.base.advanced(by: 4)
        try space.makeLargeFolio(at: large)
        scene.thread("device") {
            switch version {
            case .asItWas: try collectAndSplit(space, single, large, device)
            case .mended: _ = try space.prefetch(single..<large.advanced(by: 1), to: device.memory)
            }
        }
        scene.thread("cpu") { try cpu.store(9, at: large.address) }
        scene.join()
        scene.check(try cpu.load(single.address) == 4, "the page has lost its contents")
        scene.check(try cpu.load(large.address) == 9, "the write of the CPU is lost")
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// A walk of hmm_range_fault() that has collected one page and comes to a page of a large folio.
private func collectAndSplit(
    _ space: AddressSpace, _ single: PageNumber, _ large: PageNumber, _ device: SmallDevice
) throws(HMMError) {
    let machine = space.machine
    let frames = machine.frames
    space.lockForReading()
    defer { space.unlockForReading() }
    let request = MigrationRequest.toDevice(device.memory)
    try space.withMigration(single..<single.advanced(by: 1), request) { migration throws(HMMError) in
        if let folio = space.largeFolio(of: large), frames.tryGet(folio) {
            // Wrong: folio_lock() with the lock of the page above in hand.
            frames.lockFolio(folio)
            if frames.isLarge(folio) { _ = machine.splitFolio(folio) }
            frames.unlockFolio(folio)
            frames.put(folio)
        }
        migration.copyToDevice(device.memory)
        migration.commit()
    }
}
