import HMM
import HMMExplorer

extension Exhibit {
    static let dirtyBitLost = Exhibit(
        "dirty-bit-lost",
        source: "fd35ca3d12cc (mm/migrate_device.c: copy pte dirty bit to page)",
        story: """
            Collecting a page clears its entry, and the dirty bit in it is forgotten. When the page cannot go after \
            all, because somebody else has a reference, it gets a clean entry back. A page of the swap cache that was \
            written since it was swapped in is then dropped by reclaim as if swap had its contents. Fixed by marking \
            the page dirty when the entry is cleared.
            """,
        kind: .value, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let device = SmallDevice(scene.machine)
        let reference = try putIntoSwapCache(space)
        try cpu.store(2, at: Place.base.address)
        scene.thread("migrate") {
            space.lockForReading()
            defer { space.unlockForReading() }
            switch version {
            case .asItWas: collectAndGiveUp(space)
            case .mended:
                // Nothing gets a destination, so everything stays.
                try space.withMigration(Place.pages(1), .toDevice(device.memory)) { _ in }
            }
        }
        scene.thread("reclaim") {
            scene.machine.frames.put(reference)
            try space.advise(Place.pages(1), .pageout)
        }
        scene.join()
        try space.advise(Place.pages(1), .pageout)
        let word = try cpu.load(Place.base.address)
        if word != 2 { scene.fail("the page has \(word) again, which was overwritten with 2", kind: .value) }
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// Swaps the page out while somebody has a reference to it: it stays in the swap cache, clean. Answers the reference.
private func putIntoSwapCache(_ space: AddressSpace) throws(HMMError) -> FrameNumber {
    space.lockForReading()
    let frame = try space.reference(Place.base, [])
    space.unlockForReading()
    try space.advise(Place.pages(1), .pageout)
    return frame
}

/// migrate_vma_collect_pmd() and the way back of migrate_vma_unmap(), of mm/migrate_device.c before the fix.
private func collectAndGiveUp(_ space: AddressSpace) {
    let machine = space.machine
    let frames = machine.frames
    guard let pte = space.tables.lockPTE(Place.base) else { return }
    let frame = space.tables.read(pte).frame
    guard space.tables.read(pte).isPresent, frames.tryLockFolio(frame) else { return space.tables.unlock(pte) }
    frames.get(frame)
    let entry = space.tables.exchange(pte, .empty)
    space.flushTLB()
    // Wrong: whether the entry that was cleared is dirty, nobody will know any more.
    let clean = entry.dirty(false)
    if let migration = frames.migrationEntry(replacing: clean, isMappingWritable: true) {
        space.tables.set(pte, migration)
        frames.removeMapping(frame)
        frames.put(frame)
    } else {
        space.tables.set(pte, entry)
    }
    space.tables.unlock(pte)
    machine.removeMigrationEntries(from: frame, to: frame)
    frames.unlockFolio(frame)
    frames.put(frame)
}
