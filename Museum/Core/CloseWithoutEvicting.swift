import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let closeWithoutEvicting = Exhibit(
        "close-without-evicting",
        source: "744dd97752ef (lib/test_hmm.c: evict device pages on file close to avoid use-after-free)",
        story: """
            Every page of the device's memory points to the mirror that it was migrated for. Closing the file frees \
            the mirror and leaves the pages where they are; the next CPU fault on one, or a core dump, calls \
            dmirror_devmem_fault() with the freed mirror. Fixed by moving the pages home before the mirror goes.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        switch version {
        case .asItWas: try withOldDriver(scene, space, cpu)
        case .mended: try withReferenceDriver(scene, space, cpu)
        }
        space.removeCPU(cpu)
        space.exit()
    }
}

/// What page->zone_device_data points to.
private final class OldMirror: Sendable {
    private let isFreed = Atomic<Bool>(false)

    /// dmirror_fops_release(): the notifier goes, then the mirror.
    func release() {
        schedulingPoint(.store, on: address)
        // Wrong: pages of the device still point here.
        isFreed.store(true, ordering: .relaxed)
    }

    func use(_ scene: Scene) {
        schedulingPoint(.load, on: address)
        if isFreed.load(ordering: .relaxed) {
            scene.fail("dmirror_devmem_fault() locks the mutex of a mirror that was freed", kind: .useAfterFree)
        }
    }

    private var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}

private func withOldDriver(_ scene: Scene, _ space: AddressSpace, _ cpu: CPU) throws {
    let device = SmallDevice(scene.machine)
    let mirror = OldMirror()
    device.migrateToRam = { [unowned device] space, page, frame throws(HMMError) in
        mirror.use(scene)
        try space.bringHome(page, frame, from: device.memory)
    }
    try device.take(Place.pages(1), of: space)
    scene.thread("close") { mirror.release() }
    scene.thread("cpu") { _ = try cpu.load(Place.base.address) }
    scene.join()
    try device.remove()
}

private func withReferenceDriver(_ scene: Scene, _ space: AddressSpace, _ cpu: CPU) throws {
    let device = try DmirrorDevice(machine: scene.machine, name: "dev0", kind: .private, index: 0)
    let mirror = try device.open(space)
    let buffer = PageBuffer()
    _ = try mirror.migrate(Place.pages(1), into: buffer.words)
    scene.thread("close") { mirror.close() }
    scene.thread("cpu") {
        scene.check(try cpu.load(Place.base.address) == 1, "the page came home with other contents")
    }
    scene.join()
    try device.remove()
}
