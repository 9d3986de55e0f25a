import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let rollbackCompletesMigration = Exhibit(
        "rollback-completes-migration",
        source: "[PATCH 4/6] mm: setup device page migration in HMM pagewalk, as posted: migrate_vma_setup()",
        story: """
            When the walk fails with pages in hand, setup calls migrate_vma_pages() and migrate_vma_finalize() to put \
            them back. But the first is what moves pages, and only the source array has been cleared: destinations \
            that the driver's last round left in the other one are taken for its answer, and the page becomes one that \
            nobody has copied. Setup has to clear both, and to restore without moving.
            """,
        kind: .value, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 8)
        let device = SmallDevice(scene.machine)
        let single = Place.base.advanced(by: 3)
        let large = Place.base.advanced(by: 4)
        try space.makeLargeFolio(at: large)
        scene.thread("device") {
            switch version {
            case .asItWas: try setup(space, single, large, device)
            case .mended:
                _ = try space.prefetch(single..<large.advanced(by: 1), to: device.memory, fault: .fault)
            }
        }
        scene.thread("gup") {
            space.lockForReading()
            defer { space.unlockForReading() }
            space.release(try space.reference(large, []), [])
        }
        scene.join()
        let word = try cpu.load(single.address)
        if word != 4 { scene.fail("the page that was to stay where it is has \(word) instead of 4", kind: .value) }
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// migrate_vma_setup() as posted: the first page is collected; the second belongs to a folio that is to be split.
private func setup(
    _ space: AddressSpace, _ single: PageNumber, _ large: PageNumber, _ device: SmallDevice
) throws(HMMError) {
    let machine = space.machine
    let frames = machine.frames
    space.lockForReading()
    defer { space.unlockForReading() }
    let request = MigrationRequest.toDevice(device.memory)
    try space.withMigration(single..<single.advanced(by: 1), request) { migration throws(HMMError) in
        guard let folio = space.largeFolio(of: large), frames.tryGet(folio) else { return }
        // Only tried here: that it may not be waited for is another exhibit.
        var isSplit = true
        if frames.tryLockFolio(folio) {
            isSplit = !frames.isLarge(folio) || machine.splitFolio(folio)
            frames.unlockFolio(folio)
        }
        frames.put(folio)
        if isSplit || !migration[0].isMigrating { return }
        // dst[0] as the driver's last round left it: a page that was prepared, and to which nothing was copied.
        guard let left = device.memory.allocate() else { return }
        for word in 0..<Geometry.wordsPerPage {
            frames.words(of: left)[word].store(0xdead, ordering: .relaxed)
        }
        migration.setDestination(left, at: 0)
        // Wrong: migrate_vma_pages() on the way back.
        migration.commit()
    }
}
