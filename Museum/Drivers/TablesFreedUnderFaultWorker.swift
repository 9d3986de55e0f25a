import HMM
import HMMExplorer

extension Exhibit {
    static let tablesFreedUnderFaultWorker = Exhibit(
        "svmm-freed-under-fault-worker",
        source: "nouveau: svmm freed while the fault worker uses it (fixed in 6.12.117, not in 6.17.1)",
        story: """
            The worker that serves replayable faults looks the process's svmm up under a mutex, drops the mutex and \
            goes on to fault pages in, which may sleep. A close in between takes the svmm off the list and frees it. \
            Mended: the close takes it off the list and flushes the worker before it frees.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let svmm = TrackedObject("the svmm", in: scene)
        let driver = try Subscription(to: space, over: Place.pages(1))
        let list = SvmmList()
        let faults = WorkItem(clients: 2)
        scene.thread("gpu") {
            _ = faults.queue()
            faults.leave()
        }
        scene.thread("fault worker") {
            faults.serve {
                guard list.mutex.withLock({ list.hasSvmm.now == 1 }) else { return }
                space.lockMappingsForReading()
                _ = space.mapping(endingAfter: Place.base)
                space.unlockMappingsForReading()
                svmm.touch("the fault worker")
            }
        }
        scene.thread("close") {
            list.mutex.withLock { list.hasSvmm.now = 0 }
            if version == .mended { faults.flush() }
            _ = svmm.put()
            faults.leave()
        }
        scene.join()
        driver.remove()
        space.exit()
    }
}

/// The processes that the driver serves.
private final class SvmmList: Sendable {
    let mutex = FairMutex(.driver)
    /// Guarded by `mutex`.
    let hasSvmm = DriverWord(1)
}
