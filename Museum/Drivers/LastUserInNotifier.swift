import HMM
import HMMExplorer

extension Exhibit {
    static let lastUserInNotifier = Exhibit(
        "last-user-in-notifier",
        source: "6225bb3a88d2 and a29e067bd389 drm/amdkfd: mmput in a notifier and in a flush",
        story: """
            The callback takes the process's address space for the time of its work, under the driver's lock. If the \
            process exits meanwhile, the callback drops the last user: it tears the address space down, which calls \
            every notifier, the callback in progress among them, and that waits for the lock that it holds itself. \
            Mended: the reference is dropped by the deferred worker, which holds nothing.
            """,
        kind: .deadlock, isExhaustive: true
    ) { scene, version in
        let (space, _) = try scene.makeSpace(pages: 1)
        let users = SpaceUsers(space, in: scene)
        let work = WorkItem(clients: 1)
        let driver = try BusyDriver(space) {
            guard users.tryGet() else { return }
            switch version {
            case .asItWas: users.put()
            case .mended: _ = work.queue()
            }
        }
        scene.thread("exit") { users.put() }
        scene.thread("reclaim") {
            // An error says that nothing is mapped any more.
            _ = try? space.advise(Place.pages(1), .pageout)
            work.leave()
        }
        scene.thread("worker") { work.serve { users.put() } }
        scene.join()
        driver.interval.remove()
    }
}

/// mm_users: the address space is torn down by whoever drops the last one.
private final class SpaceUsers: Sendable {
    private let space: AddressSpace
    private let count: TrackedObject

    init(_ space: AddressSpace, in scene: Scene) {
        self.space = space
        count = TrackedObject("the address space", in: scene)
    }

    func tryGet() -> Bool { count.tryGet() }
    func put() { if count.put() { space.exit() } }
}

/// Runs its work in every callback but that of the release, with its lock held.
private final class BusyDriver: IntervalNotifierClient, @unchecked Sendable {
    /// The driver's process-wide lock, which lies outside its notifier lock.
    private let lock = SleepLock()
    private let work: @Sendable () -> Void
    /// Set once by `init`.
    private(set) var interval: IntervalNotifier!

    init(_ space: AddressSpace, _ work: @escaping @Sendable () -> Void) throws {
        self.work = work
        interval = try space.notifiers.insert(self, over: Place.pages(1))
    }

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        lock.withLock {
            notifier.setSequence(sequence)
            if range.event != .release { work() }
        }
        return true
    }
}
