/// Counts how pages change hands, so that a policy can see ping-pong and false sharing.
///
/// Locks: `lock` (.leaf).
public final class ExclusiveActivity: ExclusiveObserver, @unchecked Sendable {
    /// What happened to one page.
    public struct Record: Hashable, Sendable {
        public var grants = 0
        public var restores = 0
        /// Grants to another owner than the one before.
        public var ownerChanges = 0
        public var lastOwner: NotifierOwner?
        /// When the last `window` of hand-overs began, and how many there were since.
        var windowStart: UInt64 = 0
        var windowHandOvers = 0
    }

    /// What a driver should do about a page that keeps changing hands.
    public enum Suggestion: Hashable, Sendable {
        /// Go on taking it exclusively.
        case exclusive
        /// Move it to the device, where its atomics are local.
        case migrate
    }

    private let lock = SpinLock(.leaf)
    private var records: [PageNumber: Record] = [:]
    /// So many hand-overs within `windowNanoseconds` are ping-pong.
    public let handOverLimit: Int
    public let windowNanoseconds: UInt64

    public init(handOverLimit: Int = 16, windowNanoseconds: UInt64 = 1_000_000) {
        self.handOverLimit = handOverLimit
        self.windowNanoseconds = windowNanoseconds
    }

    public func record(of page: PageNumber) -> Record { lock.withLock { records[page] ?? Record() } }

    /// What to do with the page at its next atomic access.
    public func suggestion(for page: PageNumber) -> Suggestion {
        record(of: page).windowHandOvers >= handOverLimit ? .migrate : .exclusive
    }

    public func exclusiveGranted(_ page: PageNumber, to owner: NotifierOwner) {
        update(page) {
            $0.grants += 1
            if let last = $0.lastOwner, last != owner { $0.ownerChanges += 1 }
            $0.lastOwner = owner
        }
    }

    public func exclusiveRestored(_ page: PageNumber) { update(page) { $0.restores += 1 } }

    private func update(_ page: PageNumber, _ change: (inout Record) -> Void) {
        let now = SyncClock.now()
        lock.withLock {
            var record = records[page] ?? Record()
            change(&record)
            if now - record.windowStart > windowNanoseconds {
                record.windowStart = now
                record.windowHandOvers = 0
            }
            record.windowHandOvers += 1
            records[page] = record
        }
    }
}
