import Synchronization

/// Who may take pages from whom, and when: minimum residence of pages at a device, and turns among those who wait.
///
/// A device that has just committed translations may *hold* their pages for a while, so that it gets some work done
/// before a CPU or another device takes them away. Whoever wants such a page takes a *turn* before it takes any lock:
/// it waits until the hold has run out, and from then on nobody who came later overtakes it, the holder included. So no
/// access is overtaken twice by the same device, and two devices alternate.
///
/// Only accesses wait here. What is done for correctness (unmap, release, loss of rights, reclaim) never does.
///
/// Without holds everything costs one load. Turns of the same party (the CPUs together are one) do not wait for each
/// other. No lock may be held: a waiter sleeps.
public final class ResidenceTurns: @unchecked Sendable {
    /// A place in the queue; given back when the access has succeeded.
    public struct Turn: Hashable, Sendable {
        fileprivate var ticket: UInt64
    }

    private struct Hold {
        var pages: PageRange
        var owner: NotifierOwner
        var untilNanoseconds: UInt64
    }
    private struct Entry {
        var ticket: UInt64
        var pages: PageRange
        var owner: NotifierOwner?
    }

    private let lock = SpinLock(.leaf)
    /// Guarded by `lock`.
    private var holds: ContiguousArray<Hold> = []
    /// Guarded by `lock`, in the order of tickets.
    private var queue: ContiguousArray<Entry> = []
    /// Guarded by `lock`.
    private var lastTicket: UInt64 = 0
    /// Moves when somebody leaves the queue: what those behind it sleep on.
    private let departures = Atomic<UInt64>(0)
    /// True from the first hold on.
    private let isUsed = Atomic<Bool>(false)

    init() {}

    /// Keeps the pages with `owner` until that time, against accesses of others.
    public func hold(_ pages: PageRange, owner: NotifierOwner, untilNanoseconds: UInt64) {
        isUsed.store(true, ordering: .releasing)
        lock.lock()
        removeExpiredLocked(SyncClock.now())
        holds.append(Hold(pages: pages, owner: owner, untilNanoseconds: untilNanoseconds))
        lock.unlock()
    }

    /// Waits until nobody holds `pages` against `owner`, and everybody of another party who came before has had them.
    /// Nil when there is nothing to wait for or to give back.
    public func take(_ pages: PageRange, owner: NotifierOwner? = nil) -> Turn? {
        guard isUsed.load(ordering: .acquiring) else { return nil }
        lock.lock()
        lastTicket += 1
        let ticket = lastTicket
        queue.append(Entry(ticket: ticket, pages: pages, owner: owner))
        lock.unlock()
        waitForOthers(ticket, pages, owner)
        waitForHolds(pages, owner)
        return Turn(ticket: ticket)
    }

    /// The access has succeeded, or was given up.
    public func give(_ turn: Turn) {
        lock.lock()
        queue.removeAll { $0.ticket == turn.ticket }
        departures.add(1, ordering: .releasing)
        lock.unlock()
        WaitQueue.wakeAll(key)
    }

    private func waitForOthers(_ ticket: UInt64, _ pages: PageRange, _ owner: NotifierOwner?) {
        while true {
            let seen = departures.load(ordering: .acquiring)
            lock.lock()
            let isBlocked = queue.contains {
                $0.ticket < ticket && $0.owner != owner && $0.pages.intersection(pages) != nil
            }
            lock.unlock()
            guard isBlocked else { return }
            WaitQueue.wait(on: key) { departures.load(ordering: .acquiring) == seen }
        }
    }

    private func waitForHolds(_ pages: PageRange, _ owner: NotifierOwner?) {
        while true {
            let now = SyncClock.now()
            lock.lock()
            removeExpiredLocked(now)
            let until = holds.lazy.filter { $0.owner != owner && $0.pages.intersection(pages) != nil }
                .map(\.untilNanoseconds).max()
            lock.unlock()
            guard let until else { return }
            SyncClock.sleep(nanoseconds: until - now)
        }
    }

    private func removeExpiredLocked(_ now: UInt64) { holds.removeAll { $0.untilNanoseconds <= now } }

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
