import Synchronization

/// The pages of one file: for each page offset a frame, a swap slot, or nothing.
///
/// A frame in the cache holds one reference (a large folio one a page). Slots are changed with the folio locked, or
/// under the file's invalidate lock, and always under `lock`; they are read without a lock, by `get`. Both announce
/// the slot first.
package final class PageCache: @unchecked Sendable {
    /// What a slot holds.
    package enum Content: Equatable {
        case empty
        case frame(FrameNumber)
        case swap(SwapSlot)
    }

    private let slots: UnsafeMutablePointer<Atomic<UInt64>>
    let pageCount: Int
    private let frames: FrameTable
    private let lock = SpinLock(.swap)

    init(pageCount: Int, frames: FrameTable) {
        self.pageCount = pageCount
        self.frames = frames
        slots = .allocate(capacity: pageCount)
        for i in 0..<pageCount { (slots + i).initialize(to: Atomic(0)) }
    }

    deinit { slots.deallocate() }

    /// What the slot holds at this moment.
    func content(_ index: Int) -> Content {
        schedulingPoint(.load, on: UInt(bitPattern: slots + index))
        return decode(slots[index].load(ordering: .acquiring))
    }

    /// The index of the slot that scheduling points name by `address`.
    func slot(at address: UInt) -> Int? {
        let offset = address &- UInt(bitPattern: slots)
        return offset < UInt(pageCount * 8) ? Int(offset >> 3) : nil
    }

    /// The frame in the slot, with a reference.
    func get(_ index: Int) -> FrameNumber? {
        while case .frame(let frame) = content(index) {
            guard frames.tryGet(frame) else {
                // Frozen: whoever froze it is about to take it out of the cache, or to thaw it.
                SyncThread.yield()
                continue
            }
            if content(index) == .frame(frame) { return frame }
            frames.put(frame)
        }
        return nil
    }

    /// Puts `new` where `old` is. Answers false, and changes nothing, when something else is there.
    package func replace(_ index: Int, _ old: Content, with new: Content) -> Bool {
        schedulingPoint(.update, on: UInt(bitPattern: slots + index))
        return lock.withLock {
            guard decode(slots[index].load(ordering: .relaxed)) == old else { return false }
            slots[index].store(encode(new), ordering: .releasing)
            return true
        }
    }

    private func decode(_ word: UInt64) -> Content {
        if word == 0 { return .empty }
        return word & 1 == 0
            ? .frame(FrameNumber(truncating: word >> 1)) : .swap(SwapSlot(UInt32(truncatingIfNeeded: word >> 1)))
    }

    private func encode(_ content: Content) -> UInt64 {
        switch content {
        case .empty: 0
        case .frame(let frame): UInt64(frame.raw) << 1
        case .swap(let slot): UInt64(slot.raw) << 1 | 1
        }
    }
}
