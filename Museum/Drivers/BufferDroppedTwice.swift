import HMM
import HMMExplorer

extension Exhibit {
    static let bufferDroppedTwice = Exhibit(
        "buffer-dropped-twice",
        source: "CVE-2023-52825, 709c34826161 drm/amdkfd: Fix a race condition of vram buffer unref in svm code",
        story: """
            A range lets its video-memory buffer go in two places: in the notifier callback, and after a CPU fault \
            moved its pages home. Both look whether there is a buffer, and both drop it; the second reference is that \
            of another range, which goes on using a freed buffer. Mended: look and drop are one step under the range's \
            lock.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        // Two ranges came of a split, and share the buffer.
        let range = BufferedRange(buffer: TrackedObject("the buffer", in: scene, references: 2), version)
        let driver = try HomingDriver(space, range)
        scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
        scene.thread("cpu") {
            let word = try cpu.load(Place.base.advanced(by: 1).address)
            scene.check(word == 2, "the page came home with \(word)")
        }
        scene.join()
        range.buffer.touch("the other range")
        try driver.close()
        space.exit()
    }
}

/// A range that is backed by a buffer in video memory.
private final class BufferedRange: Sendable {
    let buffer: TrackedObject
    private let version: Exhibit.Version
    private let lock = FairMutex(.leaf)
    private let hasBuffer = DriverWord(1)

    init(buffer: TrackedObject, _ version: Exhibit.Version) {
        (self.buffer, self.version) = (buffer, version)
    }

    /// svm_range_vram_node_free.
    func dropBuffer() {
        switch version {
        case .asItWas:
            if hasBuffer.load() == 0 { return }
            hasBuffer.store(0)
            _ = buffer.put()
        case .mended:
            let mustDrop = lock.withLock {
                defer { hasBuffer.now = 0 }
                return hasBuffer.now == 1
            }
            if mustDrop { _ = buffer.put() }
        }
    }
}

/// Has both pages in its memory, and brings them home one by one.
private final class HomingDriver: DevicePrivateFaultHandler, @unchecked Sendable {
    // All immutable.
    private let machine: Machine
    private let memory: DeviceMemory
    private let range: BufferedRange
    private let subscription: Subscription

    init(_ space: AddressSpace, _ range: BufferedRange) throws {
        (machine, self.range) = (space.machine, range)
        memory = DeviceMemory(kind: .private, owner: 1, limitBytes: 1 << 20, frames: space.machine.frames)
        _ = try space.prefetch(Place.pages(2), to: memory)
        subscription = try Subscription(to: space, over: Place.pages(1)) { _ in range.dropBuffer() }
        machine.setPrivateFaultHandler(self, for: memory)
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        try space.bringHome(page, frame, from: memory)
        range.dropBuffer()
    }

    func close() throws {
        subscription.remove()
        try machine.remove(memory)
        machine.setPrivateFaultHandler(nil, for: memory)
    }
}
