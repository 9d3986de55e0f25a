import HMM
import HMMExplorer

extension Exhibit {
    static let collapseWithoutNotifier = Exhibit(
        "collapse-without-notifier",
        source: "CVE-2022-48991, f268f6cf875f (mm/khugepaged: invoke MMU notifiers in shmem/file collapse paths)",
        story: """
            khugepaged takes the page table away that maps the pages of a collapsed file one by one, and tells nobody. \
            A device that has mapped such a page keeps it when the CPU does not map it any more; what happens to the \
            page from then on, truncation for instance, tells nobody either. Fixed by calling the notifiers around it.
            """,
        kind: .staleMirror, isExhaustive: true
    ) { scene, version in
        let space = try scene.machine.makeAddressSpace()
        let cpu = space.makeCPU()
        try mapHugePageInPieces(space, cpu)
        let driver = try SmallDriver(space)
        scene.thread("device") { _ = try driver.fault(Place.base) }
        scene.thread("khugepaged") {
            switch version {
            case .asItWas: collapsePTEMappedTHP(space)
            case .mended: try space.advise(Place.pages(512), .collapse)
            }
        }
        scene.join(watching: driver)
        scene.check(try cpu.load(Place.base.address) == 1, "the page has lost its contents")
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// Shared memory whose huge page is mapped by single entries, because a part of it had other rights for a while.
private func mapHugePageInPieces(_ space: AddressSpace, _ cpu: CPU) throws {
    let last = Place.pages(1, from: Place.base.advanced(by: 511))
    try space.map(Place.pages(512), protection: .readWrite, kind: .sharedAnonymous)
    try cpu.store(1, at: Place.base.address)
    try space.advise(Place.pages(512), .collapse)
    try space.protect(last, .read)
    _ = try cpu.load(Place.base.address)
    try space.protect(last, .readWrite)
}

/// collapse_and_free_pmd() of mm/khugepaged.c before the fix.
private func collapsePTEMappedTHP(_ space: AddressSpace) {
    let frames = space.machine.frames
    space.lockForWriting()
    defer { space.unlockForWriting() }
    space.markWrite(Place.pages(512))
    guard let pmd = space.tables.entry(Place.base, .pmd), space.tables.read(pmd).isTable else { return }
    // Wrong: no invalidation around what follows.
    guard let table = space.detachTable(pmd, ifEmpty: false) else { return }
    let pte = space.tables.pool.entries(table)
    for index in 0..<Geometry.entriesPerTable {
        let entry = space.tables.read(pte + index)
        guard entry.isPresent else { continue }
        space.tables.set(pte + index, .empty)
        frames.removeMapping(entry.frame)
        frames.put(entry.frame)
    }
    space.tables.pool.free(table)
}
