import HMM
import HMMExplorer

extension Exhibit {
    static let pagesWithoutBound = Exhibit(
        "get-pages-without-bound",
        source: "9fb1f1256e41 drm/gpusvm: get_pages retries without bound (the interleaving is ours)",
        story: """
            A GPU fault reads the pages and starts over when the sequence moved meanwhile. A CPU that changes the \
            rights of the range all the time moves it in every round, and the fault never ends. Mended: after three \
            rounds beside the others the core's device fault excludes them (gpusvm answers an error instead).
            """,
        kind: .livelock, strategy: .random
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let driver = try Subscription(to: space, over: Place.pages(1))
        let isDone = Fence()
        scene.thread("gpu fault") {
            var range = HMMRange(driver.interval, Place.pages(1))
            range.defaultRequest = .fault
            let commit: (borrowing HMMRange) throws(HMMError) -> Bool = { range in
                driver.lock.withLock { !range.mustRetry() }
            }
            switch version {
            case .asItWas: while try !getPages(&range, of: space, commit) {}
            case .mended: _ = try space.deviceFault(&range, commit: commit)
            }
            isDone.signal()
        }
        scene.thread("mprotect") {
            while !isDone.hasHappened {
                try space.protect(Place.pages(1), .read)
                try space.protect(Place.pages(1), .readWrite)
            }
        }
        scene.join()
        driver.remove()
        space.exit()
    }

    private static func getPages(
        _ range: inout HMMRange, of space: AddressSpace, _ commit: (borrowing HMMRange) throws(HMMError) -> Bool
    ) throws(HMMError) -> Bool {
        range.sequence = range.interval.readBegin()
        space.lockMappingsForReading()
        let outcome: RangeFaultOutcome
        do throws(HMMError) {
            outcome = try space.rangeFault(&range)
        } catch {
            space.unlockMappingsForReading()
            throw error
        }
        space.unlockMappingsForReading()
        return outcome == .done ? try commit(range) : false
    }
}
