import Synchronization

/// The ranges that a mirror is migrating itself, so that its other threads can be ordered against that.
///
/// A driver may skip the `.migrate` events that carry its own owner: it rebuilds its entries itself, and the interval's
/// sequence must not move, or the migrating round would void itself. For everybody else an own migration is still an
/// invalidation, and two races wait for whoever forgets it. A device write through an entry that is still valid, while
/// the page is being copied, is lost. And a thread whose range fault has read the old frame before the collection
/// commits it after the migration has freed it.
///
/// So the migrating thread registers the range at the start event, under the driver lock, where it also erases the
/// range's entries and stops the device on them; and takes it out once the new entries are committed, which moves the
/// generation. A fault's commit asks `mustRetry` besides `readRetry`:
/// ```
/// let generation = tracker.generation          // before readBegin
/// …
/// driverLock.lock()
/// if interval.readRetry(sequence) || tracker.mustRetry(pages, since: generation) { unlock; tracker.wait(…); again }
/// ```
/// Differs from Linux: 6.12's test driver ignores its own events altogether, and has both races.
public final class OwnMigrationTracker: @unchecked Sendable {
    /// A registered range, to be given back.
    public struct Ticket: Hashable, Sendable {
        fileprivate var identity: UInt64
    }

    /// Guarded by the driver lock of the owner. A handful: one for each thread that migrates.
    private var ranges: ContiguousArray<(ticket: Ticket, pages: PageRange)> = []
    /// Guarded by the driver lock of the owner.
    private var lastIdentity: UInt64 = 0
    /// Moves with every migration that ends. Written under the driver lock; read without it at the begin of a fault.
    private let ended = Atomic<UInt64>(0)

    public init() {}

    /// How many own migrations have ended. A fault remembers it before it reads anything.
    public var generation: UInt64 {
        schedulingPoint(.load, on: key)
        return ended.load(ordering: .acquiring)
    }

    /// Registers a migration that starts. Caller holds the driver lock.
    public func beginLocked(_ pages: PageRange) -> Ticket {
        lastIdentity += 1
        let ticket = Ticket(identity: lastIdentity)
        ranges.append((ticket, pages))
        return ticket
    }

    /// The migration's entries are committed, or it came to nothing. Caller holds the driver lock.
    public func endLocked(_ ticket: Ticket) {
        guard let index = ranges.firstIndex(where: { $0.ticket == ticket }) else {
            preconditionFailure("an own migration was ended twice")
        }
        ranges.remove(at: index)
        WaitQueue.wakeAll(key) { ended.add(1, ordering: .releasing) }
    }

    /// True while an own migration touches any of `pages`. Caller holds the driver lock.
    public func isMigratingLocked(_ pages: PageRange) -> Bool {
        ranges.contains { $0.pages.intersection(pages) != nil }
    }

    /// True if what a fault has read of `pages` since it remembered `generation` may name frames that an own migration
    /// has moved away. Caller holds the driver lock.
    public func mustRetryLocked(_ pages: PageRange, since generation: UInt64) -> Bool {
        ended.load(ordering: .relaxed) != generation || isMigratingLocked(pages)
    }

    /// Waits until an own migration ends that was running when the caller read `generation` and saw, under the driver
    /// lock, one in its way. No lock may be held.
    public func waitForEnd(since generation: UInt64) {
        WaitQueue.wait(on: key) { ended.load(ordering: .acquiring) == generation }
    }

    var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
