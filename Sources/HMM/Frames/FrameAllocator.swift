import Synchronization

/// A buddy allocator, of system memory or of one chunk of device memory: free blocks of order 0 to 9, and contiguous
/// runs beyond.
///
/// Single frames go through stacks of recently freed ones, one for each stripe of threads, so that threads do not meet
/// at one lock and the lists are touched once a batch. Memory above the high-water mark was never used and is on no
/// list, which makes an untouched machine free of cost.
///
/// Locks: a stripe's (.zone) > `lock` (.pool), which guards the lists and the links in the frame records. A chunk of
/// device memory is guarded by its owner's lock, and its one stripe's is a .pool.
final class FrameAllocator: @unchecked Sendable {
    private let lock = SpinLock(.pool)
    let records: UnsafeMutablePointer<FrameRecord>
    let first: UInt32
    private let end: UInt32
    /// Frames from here on were never handed out.
    var untouched: UInt32
    /// Frames from here on neither were handed out nor lay in a stripe. Guarded by `lock`.
    var reached: UInt32
    /// Head of the free list of each order, 0 when empty. Guarded by `lock`.
    let heads: UnsafeMutablePointer<UInt32>
    /// The byte of frame 0, to give the bytes of free blocks back to the host.
    let bytes: UnsafeMutableRawPointer
    /// Free blocks of 2 MiB whose bytes the host still backs, at most `keptBlocks`.
    var freeBlocks = 0
    /// 512 MiB stay with the process, so that what is freed and needed again costs the host nothing.
    private static let keptBlocks = 256
    /// Frames handed out, and those in the stripes.
    var taken = 0
    /// Moves on when frames go from a stripe to the lists or the other way. Guarded by `lock`.
    var transfers = 0
    /// Immutable; each stripe is guarded by its own lock.
    private let stripes: UnsafeMutableRawPointer
    let stripeCount: Int
    private let isShared: Bool
    /// Frames that an empty stripe gets at once.
    private static let refill = 64

    /// - Parameter isShared: many threads call at the same time; otherwise the caller has a lock (.zone) of its own.
    init(
        records: UnsafeMutablePointer<FrameRecord>, bytes: UnsafeMutableRawPointer, first: Int, count: Int,
        isShared: Bool
    ) {
        self.records = records
        self.bytes = bytes
        self.first = UInt32(first)
        end = UInt32(first + count)
        untouched = UInt32(first)
        reached = UInt32(first)
        heads = .allocate(capacity: Geometry.pmdOrder + 1)
        heads.initialize(repeating: 0, count: Geometry.pmdOrder + 1)
        self.isShared = isShared
        stripeCount = isShared ? ThreadStripe.count : 1
        stripes = .allocate(byteCount: stripeCount * FrameStripePlace.bytes, alignment: FrameStripePlace.bytes)
        for i in 0..<stripeCount {
            FrameStripePlace.initialize(stripes + i * FrameStripePlace.bytes, isShared ? .zone : .pool)
        }
    }

    deinit {
        heads.deallocate()
        stripes.deallocate()
    }

    func lockLists() { if isShared { lock.lock() } }
    func unlockLists() { if isShared { lock.unlock() } }

    /// Frames handed out.
    /// Invariant: INV-AS-1 equals the frames with a reference.
    var usedFrames: Int {
        let striped = stripedFrames
        lockLists()
        defer { unlockLists() }
        return taken - striped
    }
    var totalFrames: Int { Int(end - first) }

    private var stripedFrames: Int {
        var sum = 0
        for i in 0..<stripeCount {
            let place = stripe(i)
            place.lock.pointee.lock()
            sum += Int(place.frames.pointee.count)
            place.lock.pointee.unlock()
        }
        return sum
    }

    // MARK: Single frames

    /// The stripe of the running thread.
    @inline(__always)
    private var ownStripe: FrameStripePlace { stripe(ThreadStripe.current & (stripeCount - 1)) }

    @inline(__always)
    func stripe(_ index: Int) -> FrameStripePlace { FrameStripePlace(at: stripes + index * FrameStripePlace.bytes) }

    /// Up to `count` single frames into `frames`. Answers how many there were.
    func allocate(_ count: Int, into frames: UnsafeMutablePointer<FrameNumber>) -> Int {
        let stripe = ownStripe
        stripe.lock.pointee.lock()
        var got = stripe.frames.pointee.take(count, into: frames)
        if got < count { got += refill(stripe, count - got, into: frames + got) }
        stripe.lock.pointee.unlock()
        if got < count { got += takeFromAnywhere(count - got, into: frames + got) }
        return got
    }

    /// Takes frames from the lists, and some more for the stripe, which is locked and empty.
    private func refill(
        _ stripe: FrameStripePlace, _ count: Int, into frames: UnsafeMutablePointer<FrameNumber>
    ) -> Int {
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: Self.refill) { more in
            lockLists()
            let got = takeSingles(count, into: frames)
            let extra = got < count ? 0 : takeSingles(Self.refill, into: more.baseAddress!)
            transfers += 1
            unlockLists()
            // The other way round, so that they are used in the order of their numbers.
            for i in 0..<extra { _ = stripe.frames.pointee.put(more[extra - 1 - i]) }
            return got
        }
    }

    /// The lists were empty: what other threads keep. Looks again while frames are moved, so that memory which is free
    /// is found.
    private func takeFromAnywhere(_ count: Int, into frames: UnsafeMutablePointer<FrameNumber>) -> Int {
        var got = 0
        while true {
            lockLists()
            got += takeSingles(count - got, into: frames + got)
            let seen = transfers
            unlockLists()
            for i in 0..<stripeCount where got < count {
                let place = stripe(i)
                place.lock.pointee.lock()
                got += place.frames.pointee.take(count - got, into: frames + got)
                place.lock.pointee.unlock()
            }
            lockLists()
            let isStill = transfers == seen
            unlockLists()
            if got == count || isStill { return got }
        }
    }

    /// Frees single frames, taking the lock once. They will be used in the order in which they are given.
    func free(_ frames: UnsafePointer<FrameNumber>, count: Int) {
        let stripe = ownStripe
        stripe.lock.pointee.lock()
        for i in 0..<count where !stripe.frames.pointee.put(frames[count - 1 - i]) {
            _ = drain(stripe)
            _ = stripe.frames.pointee.put(frames[count - 1 - i])
        }
        stripe.lock.pointee.unlock()
    }

    /// Puts the older frames of a locked stripe on the lists. False when it had none.
    private func drain(_ stripe: FrameStripePlace) -> Bool {
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: FrameStripe.capacity / 2) { old in
            let count = stripe.frames.pointee.takeOldest(into: old.baseAddress!)
            guard count > 0 else { return false }
            lockLists()
            putSingles(UnsafeMutableBufferPointer(rebasing: old[0..<count]))
            transfers += 1
            unlockLists()
            return true
        }
    }

    // MARK: Blocks

    /// A block of 2^`order` frames, aligned to its size.
    func allocateBlock(order: Int) -> FrameNumber? {
        if order == 0 {
            var frame = FrameNumber.none
            return allocate(1, into: &frame) == 1 ? frame : nil
        }
        if let block = takeFromLists(order: order) { return block }
        guard order <= Geometry.pmdOrder else { return nil }
        // Single frames kept at hand may be what a larger block is missing.
        for i in 0..<stripeCount {
            let place = stripe(i)
            place.lock.pointee.lock()
            while drain(place) {}
            place.lock.pointee.unlock()
        }
        return takeFromLists(order: order)
    }

    private func takeFromLists(order: Int) -> FrameNumber? {
        lockLists()
        defer { unlockLists() }
        if order > Geometry.pmdOrder { return takeContiguous(order: order) }
        return takeBlock(order: order).map { handOut($0, 1 << order) }
    }

    func free(_ frame: FrameNumber, order: Int) {
        if order == 0 {
            var frame = frame
            return free(&frame, count: 1)
        }
        lockLists()
        defer { unlockLists() }
        taken -= 1 << order
        if order > Geometry.pmdOrder {
            let end = frame.raw + UInt32(1 << order)
            for block in stride(from: frame.raw, to: end, by: 1 << Geometry.pmdOrder) {
                putBlock(block, order: Geometry.pmdOrder)
            }
        } else {
            putBlock(frame.raw, order: order)
        }
    }

    // MARK: With the lock held

    /// Single frames, in runs of neighbours as long as the lists have them.
    private func takeSingles(_ count: Int, into frames: UnsafeMutablePointer<FrameNumber>) -> Int {
        var got = 0
        while got < count {
            var order = min(6, (count - got).bitWidth - 1 - (count - got).leadingZeroBitCount)
            var block = takeBlock(order: order)
            while block == nil, order > 0 {
                order -= 1
                block = takeBlock(order: order)
            }
            guard let block else { break }
            for i in 0..<(1 << order) { frames[got + i] = FrameNumber(block) + i }
            reached = max(reached, block + UInt32(1 << order))
            got += 1 << order
        }
        taken += got
        return got
    }

    /// Puts single frames on the lists, neighbours as the blocks that they make.
    private func putSingles(_ singles: UnsafeMutableBufferPointer<FrameNumber>) {
        // Frames that were freed in the order of their numbers lie in a stripe the other way round.
        var frames = singles
        if frames[0] > frames[frames.count - 1] { frames.reverse() }
        var i = 0
        while i < frames.count {
            let frame = frames[i].raw
            var order = min(Geometry.pmdOrder, frame.trailingZeroBitCount)
            while !isRun(frames, from: i, order: order) { order -= 1 }
            putBlock(frame, order: order)
            i += 1 << order
        }
        taken -= frames.count
    }

    /// Whether the frames from `index` on are 2^`order` neighbours.
    private func isRun(_ frames: UnsafeMutableBufferPointer<FrameNumber>, from index: Int, order: Int) -> Bool {
        let last = index + 1 << order - 1
        // Frames are different from each other, but in any order.
        guard last < frames.count, frames[last] == frames[index] + (1 << order - 1) else { return false }
        for i in index..<last where frames[i + 1] != frames[i] + 1 { return false }
        return true
    }

    private func handOut(_ block: UInt32, _ count: Int) -> FrameNumber {
        taken += count
        reached = max(reached, block + UInt32(count))
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
        guard order == Geometry.pmdOrder else { return }
        freeBlocks += 1
        if freeBlocks > Self.keptBlocks {
            HostMemory.discard(bytes + Int(block) << 12, lengthBytes: Geometry.pageSizeBytes << Geometry.pmdOrder)
        }
    }

    private func unlink(_ block: UInt32, order: Int) {
        if order == Geometry.pmdOrder { freeBlocks -= 1 }
        let record = records + Int(block)
        record.pointee.flags.bitwiseAnd(~FrameFlags.free, ordering: .relaxed)
        let next = record.pointee.next
        let previous = record.pointee.previous
        if previous != 0 { records[Int(previous)].next = next } else { heads[order] = next }
        if next != 0 { records[Int(next)].previous = previous }
    }

    // MARK: Checks

    /// Frames on the free lists, in the stripes, and never touched.
    package func countFree() -> Int {
        var count = stripedFrames
        lockLists()
        defer { unlockLists() }
        count += Int(end - untouched)
        for order in 0...Geometry.pmdOrder {
            var block = heads[order]
            while block != 0 {
                count += 1 << order
                block = records[Int(block)].next
            }
        }
        return count
    }

    /// One past the last frame that was ever handed out.
    var highWater: FrameNumber {
        lockLists()
        defer { unlockLists() }
        return FrameNumber(untouched)
    }
    var firstFrame: FrameNumber { FrameNumber(first) }
}
