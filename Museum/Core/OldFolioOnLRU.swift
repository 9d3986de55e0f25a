import HMM
import HMMExplorer

extension Exhibit {
    static let oldFolioOnLRU = Exhibit(
        "old-folio-on-lru",
        source: "CVE-2025-21861, 41cddf83d8b0 (mm/migrate_device: don't add folio to be freed to LRU)",
        story: """
            After a successful migration migrate_device_finalize() puts the old folio back on the LRU, though it is \
            about to be freed and what it was charged to has moved on with its contents. The batch of the LRU keeps it \
            alive for a while, and reclaim isolates a folio that belongs to nobody. Fixed by putting back the survivor \
            only.
            """,
        kind: .invariant, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let batch = LRUBatch(scene.machine.frames)
        let device = SmallDevice(scene.machine)
        let system = space.mappedFrame(Place.base)!
        scene.thread("migrate") {
            switch version {
            case .asItWas: migrateOnePage(space, device, batch)
            case .mended: _ = try space.prefetch(Place.pages(1), to: device.memory)
            }
        }
        scene.thread("reclaim") { shrink(scene, system) }
        scene.join()
        batch.drain()
        _ = try space.evict(Place.pages(1), from: device.memory)
        space.removeCPU(cpu)
        space.exit()
        try device.remove()
    }
}

/// What folio_add_lru() adds to: keeps its folios alive until it is drained.
private final class LRUBatch: @unchecked Sendable {
    private let frames: FrameTable
    // Used by one thread, and by the program when that is alone.
    private var folios: [FrameNumber] = []

    init(_ frames: FrameTable) { self.frames = frames }

    func add(_ folio: FrameNumber) {
        frames.get(folio)
        frames.setFlags(folio, FrameFlags.onLRU)
        folios.append(folio)
    }

    func drain() {
        for folio in folios { frames.put(folio) }
        folios.removeAll()
    }
}

/// shrink_folio_list() comes by a folio that is on the LRU, and needs to know whom it is charged to.
private func shrink(_ scene: Scene, _ folio: FrameNumber) {
    let frames = scene.machine.frames
    guard frames.tryGet(folio) else { return }
    defer { frames.put(folio) }
    guard frames.hasFlags(folio, FrameFlags.onLRU) else { return }
    if frames.mapping(ofHead: folio) == .none {
        scene.fail("\(folio) is on the LRU, and nothing is charged for it", kind: .invariant)
    }
}

/// A migration of one page, down to migrate_device_finalize() of mm/migrate_device.c before the fix.
private func migrateOnePage(_ space: AddressSpace, _ device: SmallDevice, _ batch: LRUBatch) {
    let machine = space.machine
    let frames = machine.frames
    guard let source = space.mappedFrame(Place.base), frames.tryGet(source) else { return }
    defer { frames.put(source) }
    guard frames.tryLockFolio(source) else { return }
    defer { frames.unlockFolio(source) }
    guard let destination = device.memory.allocate() else { return }
    frames.clearFlags(source, FrameFlags.onLRU)
    let isUnmapped = machine.installMigrationEntries(source)
    frames.copy(source, to: destination)
    let hasMoved =
        isUnmapped && machine.moveIdentity(source, to: destination, isExclusive: { frames.refCount($0) == 1 })
    if hasMoved {
        frames.setFlags(destination, machine.movingFlags(source, to: destination))
        // mem_cgroup_migrate(): the charge goes with the contents.
        frames.setMapping(source, .none, index: 0)
    }
    machine.removeMigrationEntries(from: source, to: hasMoved ? destination : source)
    // Wrong: putback_lru_page() of the old folio, whether or not it is the one that stays.
    batch.add(source)
    frames.unlockFolio(destination)
    frames.put(destination)
}
