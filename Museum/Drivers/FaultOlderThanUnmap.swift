import HMM
import HMMExplorer

extension Exhibit {
    static let faultOlderThanUnmap = Exhibit(
        "fault-older-than-unmap",
        source: "1ddaa025403c and de3bf3009b4b drm/amdkfd: retry faults that arrive after the range is gone",
        story: """
            The hardware reports a fault again while the first report is served. The job goes on, ends, and the \
            program unmaps its memory; then the handler comes to the second report, finds no mapping, and kills a job \
            that did nothing wrong. Mended: an unmap notes the time, and reports that are older are dropped.
            """,
        kind: .assertion, isExhaustive: true
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let hardware = FaultReports()
        let isMapped = Fence()
        let isKilled = Fence()
        // The time of the last unmap; guarded by the driver lock.
        let unmapTime = DriverWord(-1)
        let driver = try Subscription(to: space, over: Place.pages(1)) { range in
            if range.event == .unmap { unmapTime.now = hardware.time }
        }
        scene.thread("job") {
            hardware.report(times: 2)
            isMapped.wait()
            try space.unmap(Place.pages(1))
        }
        scene.thread("fault handler") {
            for _ in 0..<2 {
                let reported = hardware.next()
                space.lockMappingsForReading()
                let isThere = space.mapping(endingAfter: Place.base)?.pages.contains(Place.base) == true
                space.unlockMappingsForReading()
                let isStale = driver.lock.withLock { reported <= unmapTime.now }
                if isThere {
                    isMapped.signal()
                } else if version == .asItWas || !isStale {
                    isKilled.signal()
                }
            }
        }
        scene.join()
        scene.check(!isKilled.hasHappened, "a job was killed for a fault that had been served")
        driver.remove()
        space.exit()
    }
}

/// The hardware's fault buffer: each report carries the time at which it was made.
private final class FaultReports: Sendable {
    private let lock = FairMutex(.leaf)
    /// Reports made and taken, guarded by `lock`. The time of a report is its number.
    private let (made, taken) = (DriverWord(), DriverWord())

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    /// Now, as the device's clock has it.
    var time: Int { made.load() }

    func report(times: Int) {
        for _ in 0..<times {
            _ = made.add(1)
            WaitQueue.wakeAll(key)
        }
    }

    /// Waits for a report; answers its time.
    func next() -> Int {
        WaitQueue.wait(on: key) { made.now == taken.now }
        return taken.add(1)
    }
}
