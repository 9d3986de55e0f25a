import Synchronization

/// Makes faults on one huge page serial, so that two of them do not need two pages of the pool for a moment.
final class HugetlbFaultMutex: Sendable {
    private let mutex = FairMutex(.hugetlbFault)
    func lock() { mutex.lock() }
    func unlock() { mutex.unlock() }
}

/// The pages of 2 MiB that were set aside for hugetlb mappings: which are free, and how many of those are promised.
///
/// A mapping reserves its pages when it is made, so that its faults cannot fail; a page that is taken without a
/// reservation (by a child, or for a copy) comes from what is free and not promised to anybody.
///
/// Kernel: struct hstate, dequeue_hugetlb_folio_vma, free_huge_folio, hugetlb_acct_memory (mm/hugetlb.c, 6.12), without
/// surplus pages.
/// Locks: `lock` (.leaf): who is promised the last page can be seen.
final class HugetlbPool: @unchecked Sendable {
    private let lock = SpinLock(.leaf)
    /// The frames of the pool lie behind system memory; each page starts at a multiple of 512.
    let firstFrame: FrameNumber
    let pageCount: Int
    // Guarded by `lock`.
    /// Heads of free pages; the last is the next to be used.
    private var free: [FrameNumber]
    /// Free pages that are promised.
    /// Invariant: not more than the free ones, and as many as the reservation maps say.
    private var reserved = 0
    /// Pages that failed and stay out of use.
    private var lost = 0
    private let faultMutexes: [HugetlbFaultMutex]
    private static let faultMutexCount = 64

    init(firstFrame: FrameNumber, pageCount: Int) {
        self.firstFrame = firstFrame
        self.pageCount = pageCount
        free = (0..<pageCount).reversed().map { firstFrame + $0 << Geometry.pmdOrder }
        faultMutexes = (0..<Self.faultMutexCount).map { _ in HugetlbFaultMutex() }
    }

    var counts: (free: Int, reserved: Int, lost: Int) { lock.withLock { (free.count, reserved, lost) } }

    /// The mutex of one page of a file.
    func faultMutex(file: UInt32, page: Int) -> HugetlbFaultMutex {
        faultMutexes[(Int(file) &* 31 &+ page) % Self.faultMutexCount]
    }

    /// Promises `count` pages. False when not so many are free and unpromised.
    func reserve(_ count: Int) -> Bool {
        lock.withLock {
            guard free.count - reserved >= count else { return false }
            reserved += count
            return true
        }
    }

    func unreserve(_ count: Int) { lock.withLock { reserved -= count } }

    /// A free page: a promised one, or one that is not promised to anybody.
    fileprivate func take(reserved isReserved: Bool) -> FrameNumber? {
        lock.withLock {
            guard isReserved || free.count > reserved, let head = free.popLast() else { return nil }
            if isReserved { reserved -= 1 }
            return head
        }
    }

    fileprivate func putBack(_ head: FrameNumber, restoringReserve: Bool) {
        lock.withLock {
            free.append(head)
            if restoringReserve { reserved += 1 }
        }
    }

    /// Puts the free pages back into the order of the beginning.
    fileprivate func recycle() {
        lock.withLock {
            precondition(free.count == pageCount && reserved == 0, "a pool was recycled with pages in use")
            free.sort(by: >)
        }
    }

    fileprivate func lose() { lock.withLock { lost += 1 } }
}

extension FrameTable {
    /// A folio of the pool with one reference, contents undefined. While it is nobody's page, freeing it gives the
    /// reservation back that it was taken with.
    func allocateHugetlbFolio(reserved: Bool) -> FrameNumber? {
        guard !injector.shouldFail(.hugeFolio), let head = hugetlb.take(reserved: reserved) else { return nil }
        prepareFolio(head, order: Geometry.pmdOrder)
        setFlags(head, FrameFlags.hugetlb | (reserved ? FrameFlags.restoresReserve : 0))
        return head
    }

    /// Makes the pool what it was before the first allocation. Pages that were used go back to the host.
    func recycleHugetlb() {
        var isUsed = false
        for i in 0..<hugetlb.pageCount {
            let head = hugetlb.firstFrame + i << Geometry.pmdOrder
            guard generation(of: head) != 0 else { continue }
            isUsed = true
            let size = Geometry.pageSizeBytes << Geometry.pmdOrder
            HostMemory.discard(bytes(of: head), lengthBytes: size)
            FrameRecord.clear(record(head), count: 1 << Geometry.pmdOrder)
        }
        if isUsed { hugetlb.recycle() }
    }

    /// The last reference to a folio of the pool went. `flags` are those that it had.
    func freeHugetlbFolio(_ head: FrameNumber, flags: UInt32) {
        if flags & FrameFlags.hasPoison != 0 { return hugetlb.lose() }
        hugetlb.putBack(head, restoringReserve: flags & FrameFlags.restoresReserve != 0)
    }
}

/// Which huge pages of a mapping have a page of the pool promised, and which have used it up.
///
/// A private mapping has a map of its own, which the VMAs share that it is split into or moved to; the VMAs that a
/// child gets have none. Of shared memory the file has the map. Pages are counted from the file's start.
///
/// Kernel: struct resv_map (6.12), where an entry means the opposite for private and for shared mappings.
/// Locks: `lock` (.leaf).
final class HugetlbReservations: @unchecked Sendable {
    enum State: UInt8 {
        /// No promise: a hole was punched.
        case none
        case reserved
        /// The promised page was taken.
        case consumed
    }

    private let pool: HugetlbPool
    private let lock = SpinLock(.leaf)
    private var states: ContiguousArray<State>
    /// VMAs that will release each page.
    private var claims: ContiguousArray<UInt8>

    /// Nil when the pool cannot promise so many.
    init?(_ pool: HugetlbPool, pageCount: Int) {
        guard pool.reserve(pageCount) else { return nil }
        self.pool = pool
        states = ContiguousArray(repeating: .reserved, count: pageCount)
        claims = ContiguousArray(repeating: 1, count: pageCount)
    }

    deinit { pool.unreserve(reservedCount) }

    var reservedCount: Int { lock.withLock { states.lazy.filter { $0 == .reserved }.count } }

    func isReserved(_ page: Int) -> Bool { lock.withLock { states[page] == .reserved } }

    /// A page was taken for this place. Answers what the place had.
    func consume(_ page: Int) -> State {
        lock.withLock {
            defer { states[page] = .consumed }
            return states[page]
        }
    }

    /// The page that was taken for this place goes back unused, or leaves it for good with its promise renewed.
    func set(_ page: Int, _ state: State) { lock.withLock { states[page] = state } }

    /// One more VMA will release these pages.
    func claim(_ pages: Range<Int>) { lock.withLock { for page in pages { claims[page] += 1 } } }

    /// A VMA goes. What nobody else claims is promised no more.
    func release(_ pages: Range<Int>) {
        let count = lock.withLock {
            var count = 0
            for page in pages {
                claims[page] -= 1
                guard claims[page] == 0 else { continue }
                if states[page] == .reserved { count += 1 }
                states[page] = .none
            }
            return count
        }
        pool.unreserve(count)
    }

    /// A hole is punched: the place is promised nothing any more.
    func remove(_ page: Int) {
        let wasReserved = lock.withLock {
            defer { states[page] = .none }
            return states[page] == .reserved
        }
        if wasReserved { pool.unreserve(1) }
    }
}
