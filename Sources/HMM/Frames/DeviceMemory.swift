import Synchronization

/// Whether the CPU can address the memory of a device.
public enum DeviceMemoryKind: Sendable {
    /// It cannot: a page there is named by a device-private entry, and a CPU access brings it back.
    case `private`
    /// It can: a page there is named by an ordinary entry, but takes no part in reclaim.
    case coherent
}

/// The frames of one device: growth in chunks, a free list, and what happens to a frame that is freed.
///
/// Kernel: struct dev_pagemap (include/linux/memremap.h, 6.12) with the free list that drivers keep beside it.
/// Locks: `lock` (.zone); `frameFreed` may be called from anywhere that drops a reference and takes nothing else.
public final class DeviceMemory: @unchecked Sendable {
    public let kind: DeviceMemoryKind
    /// Who owns the frames: the number of the device.
    public let owner: UInt32
    private let frames: FrameTable
    private(set) var zone: UInt16 = 0
    private let lock = SpinLock(.zone)
    /// The most frames that the device may have.
    private let limit: Int

    private struct Chunk {
        let first: FrameNumber
        let count: Int
        let allocator: FrameAllocator
        /// Hands out nothing any more; waits for its used frames to go.
        var isRetired = false
    }
    // Guarded by `lock`.
    private var chunks: [Chunk] = []
    /// Frame numbers of chunks that were removed, for the next chunk of that size.
    private var spare: [(first: FrameNumber, count: Int)] = []
    private var isDead = false
    private var allocations: UInt64 = 0
    private var releases: UInt64 = 0

    /// Told of each folio that was freed, once a life. Set before the first allocation; takes no locks but its own.
    package var freed: (@Sendable (FrameNumber) -> Void)?

    package init(kind: DeviceMemoryKind, owner: UInt32, limitBytes: Int, frames: FrameTable) {
        self.kind = kind
        self.owner = owner
        self.frames = frames
        limit = limitBytes / Geometry.pageSizeBytes
        zone = frames.attach(self)
    }

    /// A folio of one page, or of 2 MiB, with one reference, locked, contents undefined. Nil when the device is full
    /// or going away.
    public func allocate(order: Int = 0) -> FrameNumber? {
        guard !frames.injector.shouldFail(.deviceFrame) else { return nil }
        guard let head = lock.withLock({ take(order: order) }) else { return nil }
        frames.prepareFolio(head, order: order)
        let isFirst = frames.tryLockFolio(head)
        precondition(isFirst, "a free device frame was locked")
        return head
    }

    /// Frames in use.
    public var usedFrames: Int { lock.withLock { chunks.reduce(0) { $0 + $1.allocator.usedFrames } } }
    /// Frames that can be handed out without another chunk.
    public var freeFrames: Int {
        lock.withLock { chunks.reduce(0) { $1.isRetired ? $0 : $0 + $1.allocator.countFree() } }
    }
    /// Frames that the device may still hand out.
    public var availableFrames: Int { limit - usedFrames }
    /// Frames ever handed out and given back. Their difference is `usedFrames`.
    public var counts: (allocations: UInt64, releases: UInt64) { lock.withLock { (allocations, releases) } }
    /// The ranges of frames that exist now.
    package var chunkRanges: [(first: FrameNumber, count: Int)] { lock.withLock { chunks.map { ($0.first, $0.count) } } }

    package func contains(_ frame: FrameNumber) -> Bool { frames.zone(of: frame) == Int(zone) }

    /// The last reference to a folio of this memory went.
    func frameFreed(_ head: FrameNumber, order: Int) {
        freed?(head)
        lock.withLock {
            chunks[chunkIndex(of: head)].allocator.free(head, order: order)
            releases += UInt64(1 << order)
        }
    }

    // MARK: Going away

    /// Takes all chunks out of use. The caller moves the used frames away and then calls `removeRetired`.
    package func retireChunks() {
        lock.withLock { for i in chunks.indices { chunks[i].isRetired = true } }
    }

    /// Forgets retired chunks that are empty. Answers false when some still have frames in use.
    package func removeRetired() -> Bool {
        lock.withLock {
            for chunk in chunks where chunk.isRetired && chunk.allocator.usedFrames == 0 {
                frames.discardBytes(chunk.first, count: chunk.count)
                spare.append((chunk.first, chunk.count))
            }
            chunks.removeAll { $0.isRetired && $0.allocator.usedFrames == 0 }
            return !chunks.contains { $0.isRetired }
        }
    }

    /// Hands out nothing from now on.
    package func kill() { lock.withLock { isDead = true } }

    // MARK: With the lock held

    private func take(order: Int) -> FrameNumber? {
        guard !isDead else { return nil }
        var head = takeFromChunks(order: order)
        if head == nil, grow() { head = takeFromChunks(order: order) }
        if head != nil { allocations += UInt64(1 << order) }
        return head
    }

    private func takeFromChunks(order: Int) -> FrameNumber? {
        for chunk in chunks.reversed() where !chunk.isRetired {
            if let head = chunk.allocator.allocateBlock(order: order) { return head }
        }
        return nil
    }

    private func chunkIndex(of frame: FrameNumber) -> Int {
        chunks.firstIndex { frame.raw >= $0.first.raw && frame.raw < $0.first.raw + UInt32($0.count) }!
    }

    /// Adds a chunk. False when the device has its limit.
    private func grow() -> Bool {
        let have = chunks.reduce(0) { $1.isRetired ? $0 : $0 + $1.count }
        let count = min(FrameTable.chunkFrames, limit - have)
        guard count > 0 else { return false }
        let first: FrameNumber
        if let index = spare.firstIndex(where: { $0.count == count }) {
            first = spare.remove(at: index).first
        } else {
            guard let fresh = frames.reserveDeviceChunk(zone: zone) else { return false }
            first = fresh
        }
        let allocator = FrameAllocator(records: frames.records, first: Int(first.raw), count: count)
        chunks.append(Chunk(first: first, count: count, allocator: allocator))
        return true
    }
}
