import Synchronization

/// The number of a swap slot; 0 is none.
package struct SwapSlot: Hashable, Sendable {
    let raw: UInt32
    init(_ raw: UInt32) { self.raw = raw }
    init(truncating raw: UInt64) { self.raw = UInt32(truncatingIfNeeded: raw) }
}

/// Swap space with real contents.
///
/// A slot is counted once for each entry (of a page table or of a file) that names it and once while its page is in
/// the swap cache, where both copies of the page are the same or the frame is dirty.
///
/// Invariant: INV-AS-13 the count equals the entries that name the slot plus one while it is cached.
/// Locks: `lock` (.swap).
package final class SwapArea: @unchecked Sendable {
    private let lock = SpinLock(.swap)
    private let arena: HostMemory
    private let capacity: Int
    private var counts: [UInt16]
    /// The frame that caches the slot, `none` when there is none.
    private var cached: [FrameNumber]
    private var freeSlots: [UInt32] = []
    private var untouched: UInt32 = 1
    private var used = 0
    private let injector: FaultInjector

    init(bytes: Int, injector: FaultInjector) throws(HMMError) {
        capacity = bytes / Geometry.pageSizeBytes
        arena = try HostMemory(lengthBytes: max(1, capacity + 1) * Geometry.pageSizeBytes)
        // Slot 0 is none.
        counts = [0]
        cached = [.none]
        self.injector = injector
    }

    package var usedSlots: Int { lock.withLock { used } }
    package var totalSlots: Int { capacity }

    /// A free slot with count 1, or nil when swap is full.
    func allocate() -> SwapSlot? {
        guard !injector.shouldFail(.swapSlot) else { return nil }
        return lock.withLock {
            let slot: UInt32
            if let recent = freeSlots.popLast() {
                slot = recent
            } else {
                guard Int(untouched) <= capacity else { return nil }
                slot = untouched
                untouched += 1
                while counts.count <= Int(slot) {
                    counts.append(0)
                    cached.append(.none)
                }
            }
            counts[Int(slot)] = 1
            used += 1
            return SwapSlot(slot)
        }
    }

    /// One more entry names the slot.
    func get(_ slot: SwapSlot) { lock.withLock { counts[Int(slot.raw)] += 1 } }

    /// One entry less. The last one frees the slot.
    func put(_ slot: SwapSlot) {
        lock.withLock {
            precondition(counts[Int(slot.raw)] > 0, "a free swap slot was dropped")
            counts[Int(slot.raw)] -= 1
            if counts[Int(slot.raw)] == 0 {
                precondition(cached[Int(slot.raw)] == .none, "a cached swap slot was freed")
                freeSlots.append(slot.raw)
                used -= 1
            }
        }
    }

    func count(_ slot: SwapSlot) -> Int { lock.withLock { Int(counts[Int(slot.raw)]) } }

    /// The frame that caches the slot. Without a reference: the caller takes one and looks again.
    func cachedFrame(_ slot: SwapSlot) -> FrameNumber? {
        lock.withLock { cached[Int(slot.raw)] == .none ? nil : cached[Int(slot.raw)] }
    }

    /// Makes `frame` the cache of the slot, which counts once for it. False when another frame is.
    func insertCache(_ slot: SwapSlot, _ frame: FrameNumber) -> Bool {
        lock.withLock {
            guard cached[Int(slot.raw)] == .none else { return false }
            cached[Int(slot.raw)] = frame
            counts[Int(slot.raw)] += 1
            return true
        }
    }

    /// The slot is cached no more. The count that the cache held must be dropped by `put`.
    func removeCache(_ slot: SwapSlot) { lock.withLock { cached[Int(slot.raw)] = .none } }

    /// The slots in use, with their counts and the frames that cache them.
    func snapshot() -> [(slot: SwapSlot, count: Int, cached: FrameNumber?)] {
        lock.withLock {
            counts.indices.dropFirst().compactMap { i in
                guard counts[i] > 0 else { return nil }
                return (SwapSlot(UInt32(i)), Int(counts[i]), cached[i] == .none ? nil : cached[i])
            }
        }
    }

    func write(_ slot: SwapSlot, from source: UnsafeRawPointer) {
        copyPage(from: source, to: arena.base + Int(slot.raw) << 12)
    }

    func read(_ slot: SwapSlot, into destination: UnsafeMutableRawPointer) {
        copyPage(from: arena.base + Int(slot.raw) << 12, to: destination)
    }
}
