import HMM
import HMMExplorer

extension Exhibit {
    static let faultsCountEachOther = Exhibit(
        "faults-count-each-other",
        source: "1afaeb8293c9 (mm/migrate: trylock device page in do_swap_page); 6.12 has the bug",
        story: """
            With the fix for CVE-2022-3523 every CPU that faults on a device-private page takes a reference first, and \
            then calls the driver to migrate it. A migration refuses pages with references that nothing explains, and \
            those of the other faulting CPUs are such: all abort, and all fault again. Fixed by trying the page lock \
            before the reference is taken; losers wait without one.
            """,
        kind: .livelock, strategy: .random, stepLimit: 1_000
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let device = SmallDevice(scene.machine)
        try device.take(Place.pages(1), of: space)
        let cpus = [cpu] + (1..<4).map { _ in space.makeCPU() }
        for (index, cpu) in cpus.enumerated() {
            scene.thread("cpu \(index)") {
                if version == .asItWas { while try doSwapPage(space, Place.base, device) {} }
                scene.check(try cpu.load(Place.base.address) == 1, "the page came home with other contents")
            }
        }
        scene.join()
        cpus.forEach(space.removeCPU)
        space.exit()
        try device.remove()
    }
}

/// The device-private branch of do_swap_page() of mm/memory.c (6.12) with dmirror_devmem_fault() behind it. Answers
/// whether the CPU will fault again.
private func doSwapPage(_ space: AddressSpace, _ page: PageNumber, _ device: SmallDevice) throws -> Bool {
    space.lockForReading()
    defer { space.unlockForReading() }
    let frames = space.machine.frames
    // Wrong: get_page() comes before anybody knows who is to migrate the page.
    guard let frame = space.referencePrivate(page) else { return space.privateFrame(page) != nil }
    defer { frames.put(frame) }
    var request = MigrationRequest.toSystem(from: device.memory)
    let isLocked = frames.tryLockFolio(frame)
    if isLocked { request.faultFrame = frame }
    // Who did not get the lock walks all the same, and collects nothing.
    try space.withMigration(page..<page.advanced(by: 1), request) { migration throws(HMMError) in
        migration.copyToSystem()
        migration.commit()
    }
    // The losers' way through the driver is about as long as the winner's.
    if isLocked { frames.unlockFolio(frame) } else { work(on: device, steps: 6) }
    return space.privateFrame(page) != nil
}
