import Synchronization

/// A buddy allocator, of system memory or of one chunk of device memory: free blocks of order 0 to 9, and contiguous runs beyond.
///
/// Single frames go through a small stack of recently freed ones, so that a frame that was just in the cache is the
/// next to be used and the lists are touched once a batch. Memory above the high-water mark was never used and is on
/// no list, which makes an untouched machine free of cost.
///
/// Locks: `lock` (.leaf) guards everything here and the links in the frame records.
final class FrameAllocator: @unchecked Sendable {
    private let lock = SpinLock(.leaf)
    private let records: UnsafeMutablePointer<FrameRecord>
    private let first: UInt32
    private let end: UInt32
    /// Frames from here on were never handed out.
    private var untouched: UInt32
    /// Head of the free list of each order, 0 when empty.
    private var heads: [UInt32]
    /// Recently freed single frames.
    private let recent: UnsafeMutablePointer<UInt32>
    private var recentCount = 0
    private static let recentCapacity = 1024
    /// Frames handed out.
    /// Invariant: INV-AS-1 equals the frames with a reference.
    private var used = 0

    init(records: UnsafeMutablePointer<FrameRecord>, first: Int, count: Int) {
        self.records = records
        self.first = UInt32(first)
        end = UInt32(first + count)
        untouched = UInt32(first)
        heads = Array(repeating: 0, count: Geometry.pmdOrder + 1)
        recent = .allocate(capacity: Self.recentCapacity)
    }

    deinit { recent.deallocate() }

    var usedFrames: Int { lock.withLock { used } }
    var totalFrames: Int { Int(end - first) }

    /// Up to `count` single frames into `frames`. Answers how many there were.
    func allocate(_ count: Int, into frames: UnsafeMutablePointer<FrameNumber>) -> Int {
        lock.lock()
        defer { lock.unlock() }
        for i in 0..<count {
            guard let frame = takeSingle() else { return i }
            frames[i] = FrameNumber(frame)
        }
        return count
    }

    /// A block of 2^`order` frames, aligned to its size.
    func allocateBlock(order: Int) -> FrameNumber? {
        lock.lock()
        defer { lock.unlock() }
        if order > Geometry.pmdOrder { return takeContiguous(order: order) }
        if order == 0 { return takeSingle().map(FrameNumber.init) }
        if let block = takeBlock(order: order) { return handOut(block, 1 << order) }
        // Single frames kept at hand may be what a larger block is missing.
        drainRecent(keeping: 0)
        guard let block = takeBlock(order: order) else { return nil }
        return handOut(block, 1 << order)
    }

    func free(_ frame: FrameNumber, order: Int) {
        lock.lock()
        defer { lock.unlock() }
        freeLocked(frame.raw, order: order)
    }

    /// Frees single frames, taking the lock once.
    func free(_ frames: UnsafePointer<FrameNumber>, count: Int) {
        lock.lock()
        defer { lock.unlock() }
        for i in 0..<count { freeLocked(frames[i].raw, order: 0) }
    }

    // MARK: With the lock held

    private func freeLocked(_ frame: UInt32, order: Int) {
        used -= 1 << order
        if order == 0 {
            if recentCount == Self.recentCapacity { drainRecent(keeping: Self.recentCapacity / 2) }
            recent[recentCount] = frame
            recentCount += 1
        } else if order > Geometry.pmdOrder {
            for block in stride(from: frame, to: frame + UInt32(1 << order), by: 1 << Geometry.pmdOrder) {
                putBlock(block, order: Geometry.pmdOrder)
            }
        } else {
            putBlock(frame, order: order)
        }
    }

    private func takeSingle() -> UInt32? {
        if recentCount > 0 {
            recentCount -= 1
            used += 1
            return recent[recentCount]
        }
        guard let block = takeBlock(order: 0) else { return nil }
        used += 1
        return block
    }

    private func handOut(_ block: UInt32, _ count: Int) -> FrameNumber {
        used += count
        return FrameNumber(block)
    }

    /// A free block of the order: from its list, by splitting a larger one, or from untouched memory.
    private func takeBlock(order: Int) -> UInt32? {
        var larger = order
        while larger <= Geometry.pmdOrder, heads[larger] == 0 { larger += 1 }
        let block: UInt32
        if larger <= Geometry.pmdOrder {
            block = heads[larger]
            unlink(block, order: larger)
        } else {
            guard let fresh = takeUntouched() else { return nil }
            (block, larger) = fresh
            if larger < order {
                putBlock(block, order: larger)
                return nil
            }
        }
        while larger > order {
            larger -= 1
            link(block + UInt32(1 << larger), order: larger)
        }
        return block
    }

    /// The next never-used block: 2 MiB, or less at an odd end of memory.
    private func takeUntouched() -> (UInt32, Int)? {
        guard untouched < end else { return nil }
        var order = Geometry.pmdOrder
        while untouched & UInt32((1 << order) - 1) != 0 || untouched + UInt32(1 << order) > end { order -= 1 }
        defer { untouched += UInt32(1 << order) }
        return (untouched, order)
    }

    private func takeContiguous(order: Int) -> FrameNumber? {
        let size = UInt32(1 << order)
        let start = (untouched + size - 1) / size * size
        guard start + size <= end else { return nil }
        while untouched < start, let (block, order) = takeUntouched() { putBlock(block, order: order) }
        untouched = start + size
        return handOut(start, Int(size))
    }

    private func drainRecent(keeping count: Int) {
        while recentCount > count {
            recentCount -= 1
            putBlock(recent[recentCount], order: 0)
        }
    }

    /// Puts a block on its list, joined with its free buddies.
    private func putBlock(_ block: UInt32, order: Int) {
        var block = block
        var order = order
        while order < Geometry.pmdOrder {
            let buddy = block ^ UInt32(1 << order)
            guard buddy >= first, buddy < untouched, isFreeBlock(buddy, order: order) else { break }
            unlink(buddy, order: order)
            block = min(block, buddy)
            order += 1
        }
        link(block, order: order)
    }

    private func isFreeBlock(_ frame: UInt32, order: Int) -> Bool {
        let record = records + Int(frame)
        return record.pointee.flags.load(ordering: .relaxed) & FrameFlags.free != 0
            && Int(record.pointee.freeOrder) == order
    }

    private func link(_ block: UInt32, order: Int) {
        let record = records + Int(block)
        record.pointee.flags.bitwiseOr(FrameFlags.free, ordering: .relaxed)
        record.pointee.freeOrder = UInt8(order)
        record.pointee.next = heads[order]
        record.pointee.previous = 0
        if heads[order] != 0 { records[Int(heads[order])].previous = block }
        heads[order] = block
    }

    private func unlink(_ block: UInt32, order: Int) {
        let record = records + Int(block)
        record.pointee.flags.bitwiseAnd(~FrameFlags.free, ordering: .relaxed)
        let next = record.pointee.next
        let previous = record.pointee.previous
        if previous != 0 { records[Int(previous)].next = next } else { heads[order] = next }
        if next != 0 { records[Int(next)].previous = previous }
    }

    // MARK: Checks

    /// Frames on the free lists, on the stack of recent ones, and never touched.
    package func countFree() -> Int {
        lock.withLock {
            var count = Int(end - untouched) + recentCount
            for order in 0...Geometry.pmdOrder {
                var block = heads[order]
                while block != 0 {
                    count += 1 << order
                    block = records[Int(block)].next
                }
            }
            return count
        }
    }

    /// One past the last frame that was ever handed out.
    var highWater: FrameNumber { lock.withLock { FrameNumber(untouched) } }
    var firstFrame: FrameNumber { FrameNumber(first) }
}
