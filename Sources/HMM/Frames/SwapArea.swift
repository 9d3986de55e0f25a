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
/// Locks: `lock` (.swap). Each use of a slot announces itself first, because faults see by the slot what others did.
/// Which slot an allocation gets is nobody's business, so slots have nothing in common.
package final class SwapArea: @unchecked Sendable {
    private let lock = SpinLock(.swap)
    private let arena: HostMemory
    private let capacity: Int
    private var counts: [UInt16]
    /// The frame that caches the slot, `none` when there is none.
    private var cached: [FrameNumber]
    /// Free slots, the last one freed at the end. Some in between may be in use again: taken with their neighbours.
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

    /// Makes the area what it was before the first allocation. No slot is in use, and nobody else calls.
    func recycle() {
        lock.withLock {
            precondition(used == 0, "swap space was recycled with slots in use")
            guard untouched > 1 else { return }
            clearPages(arena.base + Geometry.pageSizeBytes, count: Int(untouched) - 1)
            counts.removeLast(counts.count - 1)
            cached.removeLast(cached.count - 1)
            freeSlots.removeAll(keepingCapacity: true)
            untouched = 1
        }
    }

    package var usedSlots: Int { lock.withLock { used } }
    package var totalSlots: Int { capacity }

    /// The first of `count` free slots in a row, each with count 1, or nil when there are none. The count is that of an
    /// entry, or with `head` that of the cache, for the pages of a folio: a slot is never seen without it, not even by
    /// a fault that still holds an entry of its former life.
    func allocate(_ count: Int = 1, caching head: FrameNumber = .none) -> SwapSlot? {
        guard !injector.shouldFail(.swapSlot) else { return nil }
        // Found first, then announced, then taken: in between somebody else may have come, and it is done again.
        while let (first, hadLife) = lock.withLock({ findFree(count) }) {
            // A slot that never had a life is in nobody's entry.
            if hadLife ? takeUsed(first, count, caching: head) : takeFresh(first, count, caching: head) { return first }
        }
        return nil
    }

    /// Each slot is a step of its own: who looks at two of them may find one taken and the other one not yet.
    private func takeUsed(_ first: SwapSlot, _ count: Int, caching head: FrameNumber) -> Bool {
        var taken = 0
        while taken < count {
            let slot = SwapSlot(first.raw + UInt32(taken))
            willChange(slot)
            let isFree = lock.withLock {
                guard counts[Int(slot.raw)] == 0 else { return false }
                occupy(slot, caching: head == .none ? .none : head + taken)
                return true
            }
            guard isFree else { break }
            taken += 1
        }
        if count > 1 { lock.withLock { freeSlots.removeAll { counts[Int($0)] > 0 } } }
        if taken == count { return true }
        // Somebody was faster.
        for i in 0..<UInt32(taken) {
            let slot = SwapSlot(first.raw + i)
            if head == .none { put(slot) } else { removeCache(slot) }
        }
        return false
    }

    /// The first of so many free slots in a row, and whether they were used before. The lock is held.
    private func findFree(_ count: Int) -> (slot: SwapSlot, hadLife: Bool)? {
        while count == 1, let recent = freeSlots.last {
            if counts[Int(recent)] == 0 { return (SwapSlot(recent), true) }
            freeSlots.removeLast()
        }
        if Int(untouched) + count - 1 <= capacity { return (SwapSlot(untouched), false) }
        return count > 1 ? findFreeRun(count).map { ($0, true) } : nil
    }

    /// False if they are not the first untouched ones any more.
    private func takeFresh(_ first: SwapSlot, _ count: Int, caching head: FrameNumber) -> Bool {
        lock.withLock {
            guard first.raw == untouched else { return false }
            untouched += UInt32(count)
            counts.append(contentsOf: repeatElement(0, count: count))
            cached.append(contentsOf: repeatElement(.none, count: count))
            for i in 0..<count {
                occupy(SwapSlot(first.raw + UInt32(i)), caching: head == .none ? .none : head + i)
            }
            return true
        }
    }

    /// The free slot is in use. The lock is held.
    private func occupy(_ slot: SwapSlot, caching frame: FrameNumber) {
        counts[Int(slot.raw)] = 1
        cached[Int(slot.raw)] = frame
        if freeSlots.last == slot.raw { freeSlots.removeLast() }
        used += 1
    }

    /// Slots in a row that were used and are free again: a search, done only when nothing untouched is left.
    private func findFreeRun(_ count: Int) -> SwapSlot? {
        var length = 0
        for slot in 1..<counts.count {
            length = counts[slot] == 0 ? length + 1 : 0
            if length == count { return SwapSlot(UInt32(slot - count + 1)) }
        }
        return nil
    }

    /// One more entry names the slot.
    package func get(_ slot: SwapSlot) {
        willChange(slot)
        lock.withLock { counts[Int(slot.raw)] += 1 }
    }

    /// One entry less. The last one frees the slot.
    package func put(_ slot: SwapSlot) { _ = putEntry(slot) }

    /// As `put`. Answers the frame that caches the slot now: asked before or after, it could come or go in between.
    func putEntry(_ slot: SwapSlot) -> FrameNumber? {
        willChange(slot)
        return lock.withLock {
            let frame = cached[Int(slot.raw)]
            drop(slot)
            return frame == .none ? nil : frame
        }
    }

    func count(_ slot: SwapSlot) -> Int {
        willLook(slot)
        return lock.withLock { Int(counts[Int(slot.raw)]) }
    }

    /// The frame that caches the slot. Without a reference: the caller takes one and looks again.
    package func cachedFrame(_ slot: SwapSlot) -> FrameNumber? {
        willLook(slot)
        return lock.withLock { cached[Int(slot.raw)] == .none ? nil : cached[Int(slot.raw)] }
    }

    /// Makes `frame` the cache of the slot, which counts once for it. False when another frame is, or the slot is free.
    func insertCache(_ slot: SwapSlot, _ frame: FrameNumber) -> Bool {
        willChange(slot)
        return lock.withLock {
            guard cached[Int(slot.raw)] == .none, counts[Int(slot.raw)] > 0 else { return false }
            cached[Int(slot.raw)] = frame
            counts[Int(slot.raw)] += 1
            return true
        }
    }

    /// The slot is cached no more, and the count that the cache held is dropped: in one step, or a page that is read
    /// into the cache between the two takes the old count for an entry that still needs the slot, and never goes.
    func removeCache(_ slot: SwapSlot) {
        willChange(slot)
        lock.withLock {
            cached[Int(slot.raw)] = .none
            drop(slot)
        }
    }

    /// One count less. The lock is held.
    private func drop(_ slot: SwapSlot) {
        precondition(counts[Int(slot.raw)] > 0, "a free swap slot was dropped")
        counts[Int(slot.raw)] -= 1
        guard counts[Int(slot.raw)] == 0 else { return }
        precondition(cached[Int(slot.raw)] == .none, "a cached swap slot was freed")
        freeSlots.append(slot.raw)
        used -= 1
    }

    private func key(_ slot: SwapSlot) -> UInt { UInt(bitPattern: arena.base) + UInt(slot.raw) << 12 }
    private func willLook(_ slot: SwapSlot) { schedulingPoint(.load, on: key(slot)) }
    private func willChange(_ slot: SwapSlot) { schedulingPoint(.update, on: key(slot)) }

    /// What the object at `address` is, for people; nil if it is none of the slots.
    func objectName(at address: UInt) -> String? {
        let first = UInt(bitPattern: arena.base)
        guard address >= first, address - first <= UInt(capacity) << 12 else { return nil }
        return "swap slot \((address - first) >> 12)"
    }

    /// One past the last slot that was ever used.
    var touchedSlots: Int { lock.withLock { counts.count } }

    /// The slots in use, with their counts and whether a frame caches them. The lock is held meanwhile.
    func forEachUsed(_ body: (_ slot: SwapSlot, _ count: Int, _ isCached: Bool) -> Void) {
        lock.withLock {
            for i in counts.indices where counts[i] > 0 {
                body(SwapSlot(UInt32(i)), Int(counts[i]), cached[i] != .none)
            }
        }
    }

    package func write(_ slot: SwapSlot, from source: UnsafeRawPointer) {
        copyPages(from: source, to: arena.base + Int(slot.raw) << 12)
    }

    func read(_ slot: SwapSlot, into destination: UnsafeMutableRawPointer) {
        copyPages(from: arena.base + Int(slot.raw) << 12, to: destination)
    }
}
