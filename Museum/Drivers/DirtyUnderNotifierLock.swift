import HMM
import HMMExplorer

// Lock order of the driver as it was: driver lock > folio. That of the core: folio > driver lock.

extension Exhibit {
    static let dirtyUnderNotifierLock = Exhibit(
        "dirty-under-notifier-lock",
        source: "2577b202458c drm/xe: userptr pages marked dirty under the notifier lock",
        story: """
            The driver marks the pages that it got as dirty, for which it takes each folio's lock, while it holds its \
            notifier lock. Reclaim holds the folio lock and calls the notifier, which waits for the notifier lock. \
            Mended: the pages are not marked; a page that was faulted for writing is dirty already.
            """,
        kind: .deadlock, isExhaustive: true
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let driver = try Subscription(to: space, over: Place.pages(1))
        scene.thread("gpu fault") {
            var range = HMMRange(driver.interval, Place.pages(1))
            range.defaultRequest = [.fault, .write]
            _ = try space.deviceFault(&range) { range throws(HMMError) in
                driver.lock.lock()
                defer { driver.lock.unlock() }
                if range.mustRetry() { return false }
                if version == .asItWas { markDirty(range[0].frame, of: space) }
                return true
            }
        }
        scene.thread("reclaim") { try space.advise(Place.pages(1), .pageout) }
        scene.join()
        driver.remove()
        space.exit()
    }

    /// set_page_dirty_lock: takes the folio lock as everybody does, by trying first and sleeping then.
    private static func markDirty(_ frame: FrameNumber, of space: AddressSpace) {
        let frames = space.machine.frames
        while !frames.tryLockFolio(frame) { frames.waitForUnlock(frame) }
        space.noteDeviceWrite(Place.pages(1), firstFrame: frame)
        frames.unlockFolio(frame)
    }
}
