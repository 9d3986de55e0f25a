import HMM
import HMMExplorer

extension Exhibit {
    static let privateFaultWithoutReference = Exhibit(
        "private-fault-without-reference",
        source: "CVE-2022-3523, 16ce101db85d (mm/memory.c: fix race when faulting a device private page)",
        story: """
            A CPU fault calls migrate_to_ram() of the page that a device-private entry named a moment ago, without a \
            reference and without looking at the entry again. Somebody migrates the page home and frees it, its driver \
            may even be gone: the fault jumps through page->pgmap of a free page. Fixed by looking again under the \
            table lock and taking a reference there.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let device = SmallDevice(scene.machine)
        try device.take(Place.pages(1), of: space)
        scene.thread("cpu") {
            if version == .asItWas { try doSwapPage(scene, space, Place.base, device) }
            scene.check(try cpu.load(Place.base.address) == 1, "the page came home with other contents")
        }
        scene.thread("evict") { _ = try space.evict(Place.pages(1), from: device.memory) }
        scene.join()
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// The device-private branch of do_swap_page() of mm/memory.c, before the fix.
private func doSwapPage(_ scene: Scene, _ space: AddressSpace, _ page: PageNumber, _ device: SmallDevice) throws {
    space.lockForReading()
    defer { space.unlockForReading() }
    let frames = space.machine.frames
    guard let frame = space.privateFrame(page) else { return }
    let watch = FrameWatch(frame, in: frames)

    // Wrong: vmf->page->pgmap->ops->migrate_to_ram(vmf), whatever became of the page. The reference that is held from
    // now on keeps the model sane; history had none.
    guard frames.hold(watch) else {
        return scene.fail("the fault jumps through page->pgmap of \(frame), which is free", kind: .useAfterFree)
    }
    defer { frames.put(frame) }
    guard frames.tryLockFolio(frame) else { return }
    defer { frames.unlockFolio(frame) }
    try space.bringHome(page, frame, from: device.memory)
}
