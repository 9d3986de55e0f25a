import Synchronization

/// Whether the CPU can address the memory of a device.
public enum DeviceMemoryKind: Sendable {
    /// It cannot: a page there is named by a device-private entry, and a CPU access brings it back.
    case `private`
    /// It can: a page there is named by an ordinary entry, but takes no part in reclaim.
    case coherent
}

/// Moves bytes between the memory of a device and anywhere else. Without one the host copies.
public protocol DeviceCopyEngine: AnyObject, Sendable {
    /// Copies pages that nobody accesses meanwhile. False when the device failed: what lies at the destination is
    /// undefined then, and is not used.
    func copy(_ source: UnsafeRawPointer, to destination: UnsafeMutableRawPointer, pageCount: Int) -> Bool
}

/// The frames of one device: growth in chunks up to a limit, free lists, the order in which pages were used, and what
/// happens to a frame that is freed.
///
/// Kernel: struct dev_pagemap (include/linux/memremap.h, 6.12) with the free list that drivers keep beside it.
/// Locks: `lock` (.zone). Whoever takes or frees frames counts itself in, and whoever looks at all of them or takes
/// chunks out of use changes that: both announce it before they lock. Whether a folio is still used when somebody comes
/// to it is a matter of its own references. `frameFreed` may be called from anywhere that drops a reference and takes
/// nothing else.
///
/// Invariant: INV-MG-3 a used frame has an entry or one owner in flight; a free one has no reference and lies on
/// exactly one free list; `freed` is called once a life.
public final class DeviceMemory: @unchecked Sendable {
    public let kind: DeviceMemoryKind
    /// Who owns the frames: the number of the device.
    public let owner: UInt32
    /// The table owns its zones.
    unowned let frames: FrameTable
    private(set) var zone: UInt16 = 0
    private let lock = SpinLock(.zone)
    /// The most frames that the device may have.
    public let frameLimit: Int

    private struct Chunk {
        let first: FrameNumber
        let count: Int
        let allocator: FrameAllocator
        /// Hands out nothing any more; waits for its used frames to go.
        var isRetired = false

        func contains(_ frame: FrameNumber) -> Bool { frame >= first && frame - first < count }
    }
    // Guarded by `lock`.
    private var chunks: [Chunk] = []
    /// Frame numbers of chunks that were removed, for the next chunk of that size.
    private var spare: [(first: FrameNumber, count: Int)] = []
    private var isDead = false
    private var allocations: UInt64 = 0
    private var releases: UInt64 = 0
    /// The used folios, from the one unused for longest to the one that was handed out last.
    private var useOrder: FolioList

    /// Somebody gives all memory back.
    private let isReleasing = Atomic<Bool>(false)
    /// Told of each folio that was freed, once a life. Set before the first allocation; takes no locks but its own.
    package var freed: (@Sendable (FrameNumber) -> Void)?
    /// Set before the first allocation.
    public var copyEngine: (any DeviceCopyEngine)?

    package init(kind: DeviceMemoryKind, owner: UInt32, limitBytes: Int, frames: FrameTable) {
        self.kind = kind
        self.owner = owner
        self.frames = frames
        frameLimit = limitBytes / Geometry.pageSizeBytes
        useOrder = FolioList(frames.records)
        zone = frames.attach(self)
    }

    /// A folio of one page, or of 2 MiB, with one reference, locked, contents undefined. Nil when the device is full
    /// or going away.
    public func allocate(order: Int = 0) -> FrameNumber? {
        guard !frames.injector.shouldFail(.deviceFrame) else { return nil }
        willUse()
        guard let head = lock.withLock({ take(order: order) }) else { return nil }
        frames.prepareLockedFolio(head, order: order)
        return head
    }

    /// Up to `count` folios of one page, as `allocate`. Answers how many there were.
    package func allocateSingles(_ count: Int, into heads: UnsafeMutablePointer<FrameNumber>) -> Int {
        guard !frames.injector.shouldFail(.deviceFrame) else { return 0 }
        willUse()
        lock.lock()
        let taken = takeSingles(count, heads)
        lock.unlock()
        for i in 0..<taken { frames.prepareLockedSingle(heads[i]) }
        return taken
    }

    /// Gives back a folio from `allocate` that was not used after all.
    public func giveBack(_ head: FrameNumber) {
        frames.unlockFolio(head)
        frames.put(head)
    }

    /// Frames in use.
    public var usedFrames: Int { lock.withLock { chunks.reduce(0) { $0 + $1.allocator.usedFrames } } }
    /// Frames that can be handed out without another chunk.
    public var freeFrames: Int {
        lock.withLock { chunks.reduce(0) { $1.isRetired ? $0 : $0 + $1.allocator.countFree() } }
    }
    /// Frames that the device may still hand out.
    public var availableFrames: Int { frameLimit - usedFrames }
    /// Frames ever handed out and given back. Their difference is `usedFrames`.
    public var counts: (allocations: UInt64, releases: UInt64) { lock.withLock { (allocations, releases) } }
    /// The ranges of frames that exist now.
    package var chunkRanges: [(first: FrameNumber, count: Int)] {
        lock.withLock { chunks.map { ($0.first, $0.count) } }
    }
    /// The same, as far as frames were ever handed out. For who looks while nobody moves: it is not announced.
    var touchedRanges: [Range<FrameNumber>] {
        lock.withLock { chunks.map { $0.first..<$0.allocator.highWater } }
    }

    /// The folios in use, in the order of their frames, without references: they may be gone when the caller looks.
    package var usedFolios: [FrameNumber] {
        willJudge()
        return lock.withLock { used { _ in true } }
    }

    package func contains(_ frame: FrameNumber) -> Bool { frames.zone(of: frame) == Int(zone) }

    /// The last reference to a folio of this memory went.
    func frameFreed(_ head: FrameNumber, order: Int) {
        freed?(head)
        if Seam.isWatching { withUnsafePointer(to: head) { announceFree($0, 1, frameCount: 1 << order) } }
        lock.withLock {
            useOrder.remove(head)
            chunks[chunkIndex(of: head)].allocator.free(head, order: order)
            releases += UInt64(1 << order)
        }
    }

    /// As `frameFreed`, for single pages.
    func singlesFreed(_ heads: UnsafePointer<FrameNumber>, count: Int) {
        if let freed { for i in 0..<count { freed(heads[i]) } }
        if Seam.isWatching { announceFree(heads, count, frameCount: count) }
        lock.lock()
        useOrder.remove(heads, count: count)
        var first = 0
        while first < count {
            let chunk = chunks[chunkIndex(of: heads[first])]
            var end = first + 1
            while end < count, chunk.contains(heads[end]) { end += 1 }
            chunk.allocator.free(heads + first, count: end - first)
            first = end
        }
        releases += UInt64(count)
        lock.unlock()
    }

    // MARK: Use

    /// The device used the page: it is spared the next time that pages have to go. Cheap when nothing changes.
    public func noteUse(of frame: FrameNumber) {
        // Device-coherent memory of a process lies at the process's own addresses.
        guard !frame.isLive else { return }
        let head = frames.head(of: frame)
        if !frames.hasFlags(head, FrameFlags.referenced) { frames.setFlags(head, FrameFlags.referenced) }
    }

    /// The folio became single pages, each of which is used and freed by itself from now on.
    func didSplit(_ head: FrameNumber, order: Int) {
        willUse()
        lock.withLock { for i in 1..<(1 << order) { useOrder.append(head + i) } }
    }

    /// The same for a folio that nobody mapped: its pages stay where it was in the order of use.
    func willSplit(_ head: FrameNumber, order: Int) {
        willUse()
        lock.withLock { useOrder.insert(1 << order - 1, behind: head) }
    }

    /// Up to `count` folios that were not used for longest, without references: they may be gone when the caller looks.
    ///
    /// Second chance: a folio used since the last look goes to the end instead. So does what is answered, so that a
    /// folio that cannot be moved away does not stand in the way of the next look.
    ///
    /// - Parameter wanted: folios with so many frames are enough.
    package func leastRecentlyUsed(
        _ count: Int, frames wanted: Int = .max, into heads: UnsafeMutablePointer<FrameNumber>
    ) -> Int {
        willJudge()
        lock.lock()
        defer { lock.unlock() }
        var found = 0
        var frameCount = 0
        var looks = 2 * useOrder.count
        while found < count, frameCount < wanted, looks > 0, let head = useOrder.first {
            looks -= 1
            useOrder.remove(head)
            useOrder.append(head)
            if frames.hasFlags(head, FrameFlags.referenced) {
                frames.clearFlags(head, FrameFlags.referenced)
            } else {
                heads[found] = head
                found += 1
                frameCount += frames.pageCount(ofHead: head)
            }
        }
        return found
    }

    /// Has folios that were not used for longest given up, until about `count` frames are free. `evict` answers how
    /// many its folio freed. Answers how many became free.
    package func giveUpLeastRecentlyUsed(_ count: Int, _ evict: (FrameNumber) -> Int) -> Int {
        var freed = 0
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: 64) { batch in
            // A device in full use answers the same folios again and again, if none can go.
            var misses = 0
            while freed < count, misses < 4 {
                let missing = count - freed
                let found = leastRecentlyUsed(min(64, missing), frames: missing, into: batch.baseAddress!)
                let before = freed
                for i in 0..<found { freed += evict(batch[i]) }
                if found == 0 { break }
                misses = freed == before ? misses + 1 : 0
            }
        }
        return freed
    }

    // MARK: Going away

    /// Waits until nobody else gives all memory back: two at a time would keep each other from it, each by the
    /// references of its looks.
    package func beginRelease() {
        schedulingPoint(.update, on: releaseKey)
        while isReleasing.exchange(true, ordering: .acquiring) {
            WaitQueue.wait(on: releaseKey) { isReleasing.load(ordering: .relaxed) }
        }
    }

    package func endRelease() {
        schedulingPoint(.update, on: releaseKey)
        isReleasing.store(false, ordering: .releasing)
        WaitQueue.wakeAll(releaseKey)
    }

    private var releaseKey: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) + 1 }

    /// Takes all chunks out of use. The caller moves the used frames away and then calls `removeRetired`.
    package func retireChunks() {
        willJudge()
        lock.withLock { for i in chunks.indices { chunks[i].isRetired = true } }
    }

    /// Forgets retired chunks that are empty. Answers nil when there are no others, and else the folios in use there,
    /// as `usedFolios`.
    ///
    /// A step that commutes with others of its kind: both forget the same. Folios that are freed meanwhile are answered
    /// or not, which comes to the same, because their frames have no other life.
    package func removeRetired() -> [FrameNumber]? {
        willUse()
        return lock.withLock {
            for chunk in chunks where chunk.isRetired && chunk.allocator.usedFrames == 0 {
                chunk.allocator.recycle(keepingGenerations: true, discarding: frames.leavesSlotsEmpty)
                spare.append((chunk.first, chunk.count))
            }
            chunks.removeAll { $0.isRetired && $0.allocator.usedFrames == 0 }
            return chunks.contains { $0.isRetired } ? used { $0.isRetired } : nil
        }
    }

    /// Forgets all chunks, so that the next allocation is like the first. No frame is in use, and nobody else calls.
    func recycle() {
        lock.withLock {
            for chunk in chunks { chunk.allocator.recycle() }
            chunks.removeAll(keepingCapacity: true)
            spare.removeAll(keepingCapacity: true)
            (allocations, releases) = (0, 0)
        }
    }

    /// Hands out nothing any more, for ever.
    var isGone: Bool { lock.withLock { isDead } }

    /// Hands out nothing from now on.
    package func kill() {
        willJudge()
        lock.withLock { isDead = true }
    }

    /// Announces that frames are to be freed. The last ones of a retired chunk change what can be forgotten.
    @inline(never)
    private func announceFree(_ heads: UnsafePointer<FrameNumber>, _ count: Int, frameCount: Int) {
        func areLast() -> Bool {
            lock.withLock {
                (0..<count).contains { index in
                    let chunk = chunks[chunkIndex(of: heads[index])]
                    return chunk.isRetired && chunk.allocator.usedFrames <= frameCount
                }
            }
        }
        if !areLast() { willUse() }
        // They may have become the last ones since that was announced.
        if areLast() { willJudge() }
    }

    /// Announces that frames are taken or freed: the order of two such steps shows only in numbers and in which of the
    /// folios was used last.
    private func willUse() { schedulingPoint(.load, on: UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque())) }
    /// Announces a step that all takes and frees stand before or behind.
    private func willJudge() {
        schedulingPoint(.update, on: UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()))
    }

    // MARK: With the lock held

    /// The used folios of some chunks, in the order of their frames.
    private func used(in isMeant: (Chunk) -> Bool) -> [FrameNumber] {
        let meant = chunks.filter(isMeant)
        var found: [FrameNumber] = []
        useOrder.forEach { head in if meant.contains(where: { $0.contains(head) }) { found.append(head) } }
        return found.sorted()
    }

    private func take(order: Int) -> FrameNumber? {
        guard !isDead else { return nil }
        var head = takeFromChunks(order: order)
        if head == nil, grow() { head = takeFromChunks(order: order) }
        guard let head else { return nil }
        allocations += UInt64(1 << order)
        useOrder.append(head)
        return head
    }

    private func takeFromChunks(order: Int) -> FrameNumber? {
        for chunk in chunks.reversed() where !chunk.isRetired {
            if let head = chunk.allocator.allocateBlock(order: order) { return head }
        }
        return nil
    }

    private func takeSingles(_ count: Int, _ heads: UnsafeMutablePointer<FrameNumber>) -> Int {
        guard !isDead else { return 0 }
        var taken = 0
        repeat {
            for chunk in chunks.reversed() where !chunk.isRetired && taken < count {
                taken += chunk.allocator.allocate(count - taken, into: heads + taken)
            }
        } while taken < count && grow()
        useOrder.append(heads, count: taken)
        allocations += UInt64(taken)
        return taken
    }

    private func chunkIndex(of frame: FrameNumber) -> Int { chunks.firstIndex { $0.contains(frame) }! }

    /// Adds a chunk. False when the device has its limit.
    private func grow() -> Bool {
        let have = chunks.reduce(0) { $1.isRetired ? $0 : $0 + $1.count }
        let count = min(FrameTable.chunkFrames, frameLimit - have)
        guard count > 0 else { return false }
        let first: FrameNumber
        if let index = spare.firstIndex(where: { $0.count == count }) {
            first = spare.remove(at: index).first
        } else {
            guard let fresh = frames.reserveDeviceChunk(zone: zone) else { return false }
            first = fresh
        }
        let allocator = FrameAllocator(
            records: frames.records, bytes: frames.bytes, first: Int(first.raw), count: count, isShared: false)
        chunks.append(Chunk(first: first, count: count, allocator: allocator))
        return true
    }
}
