import HMM
import HMMExplorer

// Locks: mmap > reservation in the restore worker as it was; reservation > (a fence) > mmap in the eviction.

extension Exhibit {
    static let reservationAgainstMmapLock = Exhibit(
        "reservation-against-mmap-lock",
        source: "ec6abe831a84 drm/amdkfd: reservation against mmap lock in the restore worker",
        story: """
            The restore worker holds the mmap lock and waits for the reservation of a buffer object. TTM has reserved \
            it and waits for the eviction fence; the fence is signalled by a worker that needs the mmap lock for \
            writing. Three threads in a ring. Mended: user pages are validated first, the mmap lock is dropped, and \
            only then the object is reserved.
            """,
        kind: .deadlock, isExhaustive: true
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let driver = try Subscription(to: space, over: Place.pages(1))
        let reservation = SleepLock()
        let (evictionWanted, evictionFence) = (Fence(), Fence())
        scene.thread("restore worker") {
            var range = HMMRange(driver.interval, Place.pages(1))
            range.sequence = range.interval.readBegin()
            space.lockMappingsForReading()
            _ = try space.rangeFault(&range)
            switch version {
            case .asItWas:
                reservation.withLock {}
                space.unlockMappingsForReading()
            case .mended:
                space.unlockMappingsForReading()
                reservation.withLock {}
            }
        }
        scene.thread("ttm") {
            reservation.withLock {
                evictionWanted.signal()
                evictionFence.wait()
            }
        }
        scene.thread("eviction worker") {
            evictionWanted.wait()
            // The queues of the process stop, and what they use may change.
            space.lockMappingsForWriting()
            space.unlockMappingsForWriting()
            evictionFence.signal()
        }
        scene.join()
        driver.remove()
        space.exit()
    }
}
