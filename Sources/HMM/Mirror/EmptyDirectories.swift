/// Empty directories that stay linked for a while: the lazy half of pruning.
///
/// Every invalidation empties a part of the mirror, and often the device fills it again at once; freeing each empty
/// directory would make a migration back and forth allocate and free all the time. So the last one to leave an empty
/// directory hands its protection to this ring. When the ring is full, the oldest leaves it.
///
/// A listed directory may be filled again and stays listed; when its turn comes, it merely loses this protection.
final class EmptyDirectories: @unchecked Sendable {
    let budget: Int
    private let pool: DirectoryPool
    private let lock = SpinLock(.leaf)
    // The rest is guarded by `lock`, and the `listedAt` of every directory too.
    private let ring: UnsafeMutablePointer<UInt32>
    private var oldest = 0
    private var length = 0

    init(budget: Int, pool: DirectoryPool) {
        self.budget = budget
        self.pool = pool
        ring = .allocate(capacity: max(budget, 1))
        ring.initialize(repeating: DirectoryPool.none, count: max(budget, 1))
    }

    deinit { ring.deallocate() }

    /// Takes over the caller's protection. Answers a directory whose protection the caller must drop instead, or none.
    func add(_ directory: UInt32) -> UInt32 {
        guard budget > 0 else { return directory }
        lock.lock()
        defer { lock.unlock() }
        let evicted = length == budget ? popOldest() : DirectoryPool.none
        let position = (oldest + length) % budget
        ring[position] = directory
        length += 1
        pool.listedAt(directory).pointee = UInt32(position) + 1
        return evicted
    }

    /// Takes the oldest one out; its protection goes to the caller. `none` at the end.
    func takeOldest() -> UInt32 {
        lock.lock()
        defer { lock.unlock() }
        while length > 0 {
            let directory = popOldest()
            if directory != DirectoryPool.none { return directory }
        }
        return DirectoryPool.none
    }

    /// Takes a directory out, if it is listed; then its protection goes to the caller.
    func remove(_ directory: UInt32) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        let place = pool.listedAt(directory).pointee
        guard place != 0 else { return false }
        // The hole keeps its place until its turn comes.
        ring[Int(place) - 1] = DirectoryPool.none
        pool.listedAt(directory).pointee = 0
        return true
    }

    private func popOldest() -> UInt32 {
        let directory = ring[oldest]
        oldest = (oldest + 1) % budget
        length -= 1
        if directory != DirectoryPool.none { pool.listedAt(directory).pointee = 0 }
        return directory
    }

    func isListed(_ directory: UInt32) -> Bool { lock.withLock { pool.listedAt(directory).pointee != 0 } }

    /// Directories in the ring.
    var listedCount: Int {
        lock.withLock {
            var count = 0
            for offset in 0..<length where ring[(oldest + offset) % budget] != DirectoryPool.none { count += 1 }
            return count
        }
    }
}
