import HMM
import HMMExplorer

extension Exhibit {
    static let dirtyBitOfPrivateEntry = Exhibit(
        "dirty-bit-of-private-entry",
        source: "mm: migrate_device: fix pte_pfn/pte_dirty called on non-present PTE (mail of 2026-07-06)",
        story: """
            Collecting a page asks its old entry for the dirty bit, and marks the folio. The entry of a device-private \
            page is not present: where a present one has that bit, it has a bit of the number of its frame. A page \
            that is clean is dirty after another device has asked for it, whether it moved or not, if its frame has \
            the right number. No second thread is needed. Fixed by asking whether the entry is present first.
            """,
        kind: .invariant, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        let devices = (1...2).map { SmallDevice(scene.machine, index: $0) }
        // The program has no use for what it wrote; clean, the pages go to the first device.
        try space.advise(Place.pages(2), .free)
        try devices[0].take(Place.pages(2), of: space)
        scene.thread("migrate") {
            space.lockForReading()
            defer { space.unlockForReading() }
            switch version {
            case .asItWas: for page in Place.pages(2) { collectAndGiveUp(space, page) }
            case .mended:
                // Nothing gets a destination, so everything stays.
                let request = MigrationRequest.toDevice(devices[1].memory, from: [devices[0].memory])
                try space.withMigration(Place.pages(2), request) { _ in }
            }
        }
        scene.thread("cpu") { _ = try cpu.load(Place.base.address) }
        scene.join()
        for page in Place.pages(2) {
            guard let frame = space.mappedFrame(page) else { continue }
            if scene.machine.frames.hasFlags(frame, FrameFlags.dirty) {
                scene.fail("\(page) is dirty, and nobody has written to it since it was clean", kind: .invariant)
            }
        }
        space.removeCPU(cpu)
        space.exit()
        for device in devices { try device.remove() }
    }
}

/// migrate_vma_collect_pmd() for a device-private page, and the way back of migrate_vma_unmap(), of mm/migrate_device.c
/// before the fix.
private func collectAndGiveUp(_ space: AddressSpace, _ page: PageNumber) {
    let (machine, frames) = (space.machine, space.machine.frames)
    guard let pte = space.tables.lockPTE(page) else { return }
    let entry = space.tables.read(pte)
    guard let leaf = entry.softLeaf, leaf.kind == .devicePrivate, frames.tryLockFolio(leaf.frame) else {
        return space.tables.unlock(pte)
    }
    let frame = leaf.frame
    frames.get(frame)
    _ = space.tables.exchange(pte, .empty)
    // Wrong: asked of any entry.
    if hardwareDirty(entry) { frames.setFlags(frame, FrameFlags.dirty) }
    if let migration = frames.migrationEntry(replacing: entry, isMappingWritable: true) {
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

/// pte_dirty() of a processor that keeps its dirty bit where entries that are not present keep a bit of their offset:
/// which one that is differs from processor to processor, and here it is the lowest.
private func hardwareDirty(_ entry: PageTableEntry) -> Bool {
    entry.isPresent ? entry.isDirty : entry.payload & 1 != 0
}
