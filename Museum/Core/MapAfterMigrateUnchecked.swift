import HMM
import HMMExplorer

extension Exhibit {
    static let mapAfterMigrateUnchecked = Exhibit(
        "map-after-migrate-unchecked",
        source: "lib/test_hmm.c dmirror_migrate_finalize_and_map, still in 6.12; nouveau_pfns_map; found by reading",
        story: """
            After migrate_vma_pages() the driver maps what moved, without a look at the sequence: it holds the mmap \
            lock for reading, and so does MADV_DONTNEED. The zap invalidates a mirror that has nothing yet, the driver \
            stores its entry, and finalize finds no mapping and frees the page. Fixed by a check of the sequence \
            around the store; what did not pass is faulted in when it is needed.
            """,
        kind: .staleMirror, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        switch version {
        case .asItWas: try withOldDriver(scene, space)
        case .mended: try withReferenceDriver(scene, space)
        }
        space.removeCPU(cpu)
        space.exit()
    }
}

private func withOldDriver(_ scene: Scene, _ space: AddressSpace) throws {
    let driver = try SmallDriver(space)
    let device = SmallDevice(scene.machine)
    scene.thread("device") {
        space.lockForReading()
        defer { space.unlockForReading() }
        let request = MigrationRequest.toDevice(device.memory, owner: driver.owner)
        try space.withMigration(Place.pages(1), request) { migration throws(HMMError) in
            migration.copyToDevice(device.memory)
            migration.commit()
            // Wrong: folio locks and the mmap lock for reading keep no zap away.
            driver.lock.lock()
            migration.forEachMovedRun { run in
                driver.storeLocked(run.pages.lowerBound, run.firstFrame, isWritable: run.isWritable)
            }
            driver.lock.unlock()
        }
    }
    scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
    scene.join(watching: driver)
    driver.close()
    _ = try space.evict(Place.pages(1), from: device.memory)
    try device.remove()
}

private func withReferenceDriver(_ scene: Scene, _ space: AddressSpace) throws {
    let device = try DmirrorDevice(machine: scene.machine, name: "dev0", kind: .private, index: 0)
    let mirror = try device.open(space)
    let buffer = PageBuffer()
    scene.always(.staleMirror) { mirror.checkInvariants().first }
    scene.thread("device") { _ = try mirror.migrate(Place.pages(1), into: buffer.words) }
    scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
    scene.join()
    if let fault = mirror.checkInvariants().first { scene.fail(fault, kind: .staleMirror) }
    mirror.close()
    try device.remove()
}
