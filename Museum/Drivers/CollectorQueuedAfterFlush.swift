import HMM
import HMMExplorer

extension Exhibit {
    static let collectorQueuedAfterFlush = Exhibit(
        "collector-queued-after-flush",
        source: "bce7cd6db238 drm/xe: Disable garbage collector work item on SVM close",
        story: """
            The close of a VM flushes the work item that collects unmapped ranges, and then frees the VM's page \
            tables. The notifier is still subscribed, so a munmap between the two queues the item once more, and it \
            runs on freed tables. Mended: the item is disabled, so that it can be neither running nor queued again.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let tables = TrackedObject("the VM's page tables", in: scene)
        let collector = WorkItem(clients: 2)
        let driver = try Subscription(to: space, over: Place.pages(1)) { range in
            if range.event == .unmap { _ = collector.queue() }
        }
        scene.thread("close") {
            switch version {
            case .asItWas: collector.flush()
            case .mended: collector.disable()
            }
            _ = tables.put()
            driver.remove()
            collector.leave()
        }
        scene.thread("munmap") {
            try space.unmap(Place.pages(1))
            collector.leave()
        }
        scene.thread("worker") { collector.serve { tables.touch("the garbage collector") } }
        scene.join()
        space.exit()
    }
}
