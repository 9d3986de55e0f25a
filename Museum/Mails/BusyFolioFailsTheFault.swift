import HMM
import HMMExplorer

extension Exhibit {
    static let busyFolioFailsTheFault = Exhibit(
        "busy-folio-fails-the-fault",
        source: "[PATCH 4/6] mm: setup device page migration in HMM pagewalk, as posted: out_error",
        story: """
            A large folio that cannot be split, because somebody has a reference to it for a moment, makes the walk \
            answer -EFAULT for the whole range: the device's access is reported as one to an address where nothing is \
            mapped. Before the patch such a page was left where it is. The page has to be skipped.
            """,
        kind: .assertion, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 4)
        let device = SmallDevice(scene.machine)
        try space.makeLargeFolio(at: Place.base)
        scene.thread("device") {
            do throws(HMMError) {
                switch version {
                case .asItWas: try faultAndMigrate(space, Place.base, device)
                case .mended: _ = try space.prefetch(Place.pages(1), to: device.memory, fault: .fault)
                }
            } catch {
                scene.fail("the device's access to a page that is mapped fails: \(error)")
            }
        }
        scene.thread("gup") { try lookAt(space, Place.base) }
        scene.join()
        scene.check(try cpu.load(Place.base.address) == 1, "the page has lost its contents")
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// get_user_pages() and put_page().
private func lookAt(_ space: AddressSpace, _ page: PageNumber) throws(HMMError) {
    space.lockForReading()
    defer { space.unlockForReading() }
    space.release(try space.reference(page, []), [])
}

/// hmm_range_fault() with HMM_PFN_REQ_MIGRATE, as posted, of one page.
private func faultAndMigrate(_ space: AddressSpace, _ page: PageNumber, _ device: SmallDevice) throws(HMMError) {
    let machine = space.machine
    let frames = machine.frames
    do {
        space.lockForReading()
        defer { space.unlockForReading() }
        if let folio = space.largeFolio(of: page), frames.tryGet(folio) {
            frames.lockFolio(folio)
            let isSplit = !frames.isLarge(folio) || machine.splitFolio(folio)
            frames.unlockFolio(folio)
            frames.put(folio)
            // Wrong: nothing is wrong with the address.
            guard isSplit else { throw HMMError(.badAddress, "-EFAULT of migrate_vma_split_folio()") }
        }
    }
    _ = try space.prefetch(page..<page.advanced(by: 1), to: device.memory)
}
