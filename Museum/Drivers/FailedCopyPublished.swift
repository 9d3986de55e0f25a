import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let failedCopyPublished = Exhibit(
        "failed-copy-published",
        source: "CVE-2024-50096, 835745a377a4 nouveau/dmem: Fix vulnerability in migrate_to_ram upon copy error",
        story: """
            A CPU touches a page in device memory. The copy engine fails, but the driver publishes the new page all \
            the same, and the CPU reads what its frame held for its last owner. No second thread is needed. Mended: \
            the core reports the error and leaves the page where it is (nouveau publishes a zeroed page).
            """,
        kind: .value, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        let driver = try FailingDriver(space, version)
        // The second page holds a secret, and its frame is the next one to be handed out.
        try cpu.store(0x5ec4e7, at: Place.base.advanced(by: 1).address)
        try space.advise(Place.pages(1, from: Place.base.advanced(by: 1)), .dontneed)
        driver.engine.isBroken.store(true, ordering: .relaxed)
        scene.thread("cpu") {
            do {
                let word = try cpu.load(Place.base.address)
                if word != 1 { scene.fail("the page held 1, the CPU read \(word)", kind: .value) }
            } catch AccessFault.busError {
                // The program learns that its page is lost to it for now.
            }
        }
        scene.join()
        driver.engine.isBroken.store(false, ordering: .relaxed)
        try driver.close()
        space.exit()
    }
}

/// A copy engine that can fail: what lies at the destination is what lay there before.
private final class BreakableEngine: DeviceCopyEngine {
    let isBroken = Atomic<Bool>(false)

    func copy(_ source: UnsafeRawPointer, to destination: UnsafeMutableRawPointer, pageCount: Int) -> Bool {
        if isBroken.load(ordering: .relaxed) { return false }
        destination.copyMemory(from: source, byteCount: pageCount * Geometry.pageSizeBytes)
        return true
    }
}

private final class FailingDriver: DevicePrivateFaultHandler, @unchecked Sendable {
    // All immutable.
    let engine = BreakableEngine()
    private let machine: Machine
    private let memory: DeviceMemory
    private let version: Exhibit.Version

    /// Takes the first page into its memory.
    init(_ space: AddressSpace, _ version: Exhibit.Version) throws {
        (machine, self.version) = (space.machine, version)
        memory = DeviceMemory(kind: .private, owner: 1, limitBytes: 1 << 20, frames: machine.frames)
        memory.copyEngine = engine
        machine.setPrivateFaultHandler(self, for: memory)
        _ = try space.prefetch(Place.pages(1), to: memory)
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        switch version {
        case .asItWas: try publishWhateverHappens(space, page, frame)
        case .mended: try space.bringHome(page, frame, from: memory)
        }
    }

    /// nouveau_dmem_migrate_to_ram: an error of the copy ends up nowhere.
    private func publishWhateverHappens(
        _ space: AddressSpace, _ page: PageNumber, _ frame: FrameNumber
    ) throws(HMMError) {
        var request = MigrationRequest.toSystem(from: memory)
        request.faultFrame = frame
        let frames = machine.frames
        try space.withMigration(page..<page.advanced(by: 1), request) { migration throws(HMMError) in
            guard migration[0].isMigrating, let new = frames.allocateFolio(), frames.tryLockFolio(new) else {
                throw HMMError(.outOfMemory, "no system memory")
            }
            _ = engine.copy(frames.bytes(of: frame), to: frames.bytes(of: new), pageCount: 1)
            migration.setDestination(new, at: 0)
            migration.commit()
        }
    }

    func close() throws {
        try machine.remove(memory)
        machine.setPrivateFaultHandler(nil, for: memory)
    }
}
