import HMM
import HMMExplorer

extension Exhibit {
    static let loserSpinsOnHoldersProcessor = Exhibit(
        "loser-spins-where-the-holder-waits",
        source: "CVE-2026-43404, b570f37a2ce4 (mm: fix a hmm_range_fault() livelock / starvation problem)",
        story: """
            Who loses the trylock of a device-private page returns to the fault loop and tries again, without \
            sleeping. The holder is a migration that has come to a system page and waits in lru_add_drain_all() for a \
            work item on every processor, also on the one where the loser spins: the item never runs. Fixed by \
            sleeping until the folio is unlocked.
            """,
        kind: .livelock, strategy: .random, isExhaustive: true, stepLimit: 300
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let device = SmallDevice(scene.machine)
        try device.take(Place.pages(1), of: space)
        let frames = scene.machine.frames
        let frame = space.mappedFrame(Place.base)!
        let processor = Processor()

        // Has work only if the migration got the lock.
        processor.queueWork()
        scene.thread("worker") { processor.runWork() }
        scene.thread("migrate") {
            // migrate_device_range(): the private page is locked, its entries are still there.
            guard frames.tryGet(frame) else { return }
            if frames.tryLockFolio(frame) {
                // migrate_device_unmap() has met a page of system memory that is not on the LRU: lru_add_drain_all().
                processor.flushWork()
                frames.unlockFolio(frame)
            }
            frames.put(frame)
        }
        scene.thread("fault") {
            processor.enter()
            while !doSwapPage(space, Place.base) {
                // Wrong: straight back into hmm_range_fault(), with the processor.
                if version == .asItWas { continue }
                processor.leave()
                frames.waitForUnlock(frame)
                processor.enter()
            }
            processor.leave()
        }
        scene.join()
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// The device-private branch of do_swap_page() with the page lock tried first. False: somebody else has it.
private func doSwapPage(_ space: AddressSpace, _ page: PageNumber) -> Bool {
    guard let pte = space.tables.lockPTE(page) else { return true }
    defer { space.tables.unlock(pte) }
    guard let leaf = space.tables.read(pte).softLeaf, leaf.kind == .devicePrivate else { return true }
    guard space.machine.frames.tryLockFolio(leaf.frame) else { return false }
    // Here the driver would migrate the page.
    space.machine.frames.unlockFolio(leaf.frame)
    return true
}
