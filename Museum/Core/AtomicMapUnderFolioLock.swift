import HMM
import HMMExplorer

extension Exhibit {
    static let atomicMapUnderFolioLock = Exhibit(
        "atomic-map-under-folio-lock",
        source: "lib/test_hmm.c dmirror_atomic_map, still in 6.12; found by reading",
        story: """
            The driver takes the folio lock, which make_device_exclusive() returns held, for all the protection that \
            its mapping needs. Zap and mprotect do not take it: a MADV_DONTNEED after the conversion invalidates a \
            mirror that has nothing yet, and the mapping stored afterwards names a page that is free. Fixed by \
            checking the sequence under the driver lock, as nouveau does.
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
    scene.thread("device") {
        space.lockForReading()
        let grant = try space.makeExclusive(Place.base, owner: driver.owner)
        // Wrong: nothing tells whether an invalidation has been and gone.
        driver.lock.withLock { driver.storeLocked(Place.base, grant.frame, isWritable: true, isAtomic: true) }
        grant.release()
        space.unlockForReading()
    }
    scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
    scene.join(watching: driver)
    driver.close()
}

private func withReferenceDriver(_ scene: Scene, _ space: AddressSpace) throws {
    let device = try DmirrorDevice(machine: scene.machine, name: "dev0", kind: .private, index: 0)
    let mirror = try device.open(space)
    let buffer = PageBuffer()
    scene.always(.staleMirror) { mirror.checkInvariants().first }
    scene.thread("device") {
        do throws(HMMError) {
            _ = try mirror.exclusive(Place.pages(1), into: buffer.words)
        } catch where error.code == .noEntry {
            // Had the page, and lost it before it could read it.
        }
    }
    scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
    scene.join()
    if let fault = mirror.checkInvariants().first { scene.fail(fault, kind: .staleMirror) }
    mirror.close()
    try device.remove()
}
