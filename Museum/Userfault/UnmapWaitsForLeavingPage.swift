import HMM
import HMMExplorer

extension Exhibit {
    static let unmapWaitsForLeavingPage = Exhibit(
        "unmap-waits-for-leaving-page",
        source: "umap #102 (fix deadlock in evict_region)",
        story: """
            umap keeps the pages of its regions in a buffer, and a page that leaves it is marked by whoever takes it: \
            the manager of evictions, or uunmap() for a region that goes. uunmap() waits for each page to be present \
            first, and marks it then. A page that the manager has marked before is written out and freed, and is \
            never present again: uunmap() waits for ever. Mended: what is leaving already is only waited for.
            """,
        kind: .deadlock, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let buffer = RegionBuffer(cpu, space)
        scene.thread("manager") {
            guard buffer.takeOldest() else { return }
            try buffer.writeOut()
        }
        scene.thread("uunmap") {
            if buffer.takeOfRegion(version) { try buffer.writeOut() }
            try space.unmap(Place.pages(1))
        }
        scene.join()
        scene.check(buffer.stored == 1, "the page was unmapped, and its file has \(buffer.stored)")
        space.removeCPU(cpu)
        space.exit()
    }
}

/// Buffer of umap, with one page of one region.
private final class RegionBuffer: @unchecked Sendable {
    enum PageState { case present, leaving, free }

    private let (cpu, space): (CPU, AddressSpace)
    /// m_mutex.
    private let lock = SleepLock()
    /// Guarded by `lock`.
    private var state = PageState.present
    /// m_state_change_cond: moves on with each change of `state`. Written under `lock`.
    private let changes = DriverWord()
    /// What the file of the region has. Written by who marked the page.
    private(set) var stored: UInt64 = 0

    init(_ cpu: CPU, _ space: AddressSpace) { (self.cpu, self.space) = (cpu, space) }

    /// evict_oldest_page: marks the page, if it is there. The caller writes it out.
    func takeOldest() -> Bool {
        lock.withLock {
            guard state == .present else { return false }
            state = .leaving
            return true
        }
    }

    /// evict_region: the same for the pages of a region, until none is left. Whether the caller has to write it out.
    func takeOfRegion(_ version: Exhibit.Version) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        while state != .free {
            if state == .present {
                state = .leaving
                return true
            }
            // As it was, until the page is present: but what is leaving goes on to be free.
            awaitChange { version == .asItWas ? state != .present : state == .leaving }
        }
        return false
    }

    /// pthread_cond_wait, until the condition is false. The lock is held.
    private func awaitChange(while isWaiting: () -> Bool) {
        while isWaiting() {
            let seen = changes.now
            lock.unlock()
            WaitQueue.wait(on: key) { changes.now == seen }
            lock.lock()
        }
    }

    /// The eviction worker: the contents go to the file, the page to the system, and the descriptor is free.
    func writeOut() throws {
        stored = try cpu.load(Place.base.address)
        try space.advise(Place.pages(1), .dontneed)
        lock.withLock {
            state = .free
            changes.now += 1
        }
        WaitQueue.wakeAll(key)
    }

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
