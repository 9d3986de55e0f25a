import HMM
import HMMExplorer

extension Exhibit {
    static let structPageWithoutNotifierLock = Exhibit(
        "struct-page-without-notifier-lock",
        source: "CVE-2025-21939, 0a98219bcc96 drm/xe: struct page dereferenced without the notifier lock",
        story: """
            The driver builds its scatter list from the pages that hmm_range_fault named, without the notifier lock. \
            Nothing holds these pages: a zap after the range fault frees one, and the driver reads the struct page of \
            somebody else's memory. Mended: the sequence is checked under the lock, which is kept until the list is \
            built.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let driver = try Subscription(to: space, over: Place.pages(1))
        scene.thread("gpu fault") {
            var range = HMMRange(driver.interval, Place.pages(1))
            range.defaultRequest = [.fault, .write]
            var isDone = false
            while !isDone {
                guard let found = try look(at: &range, of: space, on: scene.machine) else { continue }
                switch version {
                case .asItWas:
                    found.touch("the scatter list", in: scene)
                    driver.lock.lock()
                    isDone = !range.mustRetry()
                case .mended:
                    driver.lock.lock()
                    isDone = !range.mustRetry()
                    if isDone { found.touch("the scatter list", in: scene) }
                }
                driver.lock.unlock()
            }
        }
        scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
        scene.join()
        driver.remove()
        space.exit()
    }

    /// One range fault, as a driver that has not looked at the sequence yet sees it.
    private static func look(
        at range: inout HMMRange, of space: AddressSpace, on machine: Machine
    ) throws(HMMError) -> FoundFrame? {
        range.sequence = range.interval.readBegin()
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        guard try space.rangeFault(&range) == .done else { return nil }
        return FoundFrame(range[0].frame, on: machine)
    }
}
