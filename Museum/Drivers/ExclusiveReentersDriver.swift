import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let exclusiveReentersDriver = Exhibit(
        "exclusive-reenters-driver",
        source: "uvm_hmm.c of the open NVIDIA driver, beside the comment on bug 4014681",
        story: """
            A GPU wants to compute atomically on a page that is in the memory of its own device. Making it exclusive \
            faults it home first, through the driver's fault handler, which takes the lock under which the driver \
            asked. No second thread is needed. Mended: the driver moves the page home before it takes the lock.
            """,
        kind: .deadlock, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let driver = try BlockLockDriver(space)
        scene.thread("gpu atomic") {
            if version == .mended { _ = try space.evict(Place.pages(1), from: driver.memory) }
            try driver.addAtomically()
        }
        scene.join()
        let word = try cpu.load(Place.base.address)
        scene.check(word == 2, "1 and an atomic increment came to \(word)")
        try driver.close()
        space.exit()
    }
}

/// Serves all faults of a block of addresses under one lock, those of the CPU too.
private final class BlockLockDriver: DevicePrivateFaultHandler, @unchecked Sendable {
    // Immutable.
    let memory: DeviceMemory
    private let space: AddressSpace
    private let subscription: Subscription
    /// The lock of the block; inside mmap.
    private let blockLock = SleepLock()

    /// Takes the page into its memory.
    init(_ space: AddressSpace) throws {
        self.space = space
        memory = DeviceMemory(kind: .private, owner: 1, limitBytes: 1 << 20, frames: space.machine.frames)
        subscription = try Subscription(to: space, over: Place.pages(1))
        space.machine.setPrivateFaultHandler(self, for: memory)
        _ = try space.prefetch(Place.pages(1), to: memory)
    }

    func addAtomically() throws {
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        try blockLock.withLock { () throws(HMMError) in
            let grant = try space.makeExclusive(Place.base, owner: NotifierOwner(device: 1, mirror: 1))
            space.machine.frames.words(of: grant.frame)[0].wrappingAdd(1, ordering: .relaxed)
            grant.release()
        }
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        try blockLock.withLock { () throws(HMMError) in try space.bringHome(page, frame, from: memory) }
    }

    func close() throws {
        subscription.remove()
        try space.machine.remove(memory)
        space.machine.setPrivateFaultHandler(nil, for: memory)
    }
}
