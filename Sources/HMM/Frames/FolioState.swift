import Synchronization

// What the flags of a folio say to who has it not locked: whether it is on the list of reclaim, or in a cache.
//
// Each change and each look is announced, because neither needs a lock that the other holds: lists are left under the
// lock of a table and joined again under none, and who drops an entry asks for the cache before it locks the folio. The
// flags of a folio that nobody can find yet, and of one whose last reference went, are set without that.

extension FrameTable {
    @inline(__always)
    private func listKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) + 4 }
    @inline(__always)
    private func cacheKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) + 5 }
    @inline(__always)
    private func pinKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) + 6 }

    // MARK: The list of reclaim

    @inline(__always)
    package func isOnLRU(_ head: FrameNumber) -> Bool {
        schedulingPoint(.load, on: listKey(head))
        return hasFlags(head, FrameFlags.onLRU)
    }

    @inline(__always)
    package func putOnLRU(_ head: FrameNumber) {
        schedulingPoint(.update, on: listKey(head))
        setFlags(head, FrameFlags.onLRU)
    }

    /// The caller holds a reference and saw the folio there, with a lock that keeps others from taking it off.
    @inline(__always)
    package func takeOffLRU(_ head: FrameNumber) {
        schedulingPoint(.update, on: listKey(head))
        clearFlags(head, FrameFlags.onLRU | FrameFlags.referenced)
    }

    // MARK: Caches

    /// Whether the swap cache has the folio. Who has it locked may rely on the answer.
    @inline(__always)
    package func isInSwapCache(_ head: FrameNumber) -> Bool {
        schedulingPoint(.load, on: cacheKey(head))
        return hasFlags(head, FrameFlags.swapCache)
    }

    /// The folio is in the swap cache from now on, with these other flags. It is locked.
    @inline(__always)
    package func joinSwapCache(_ head: FrameNumber, _ flags: UInt32) {
        schedulingPoint(.update, on: cacheKey(head))
        setFlags(head, FrameFlags.swapCache | flags)
    }

    /// The folio is in the swap cache no more. It is locked.
    @inline(__always)
    package func leaveSwapCache(_ head: FrameNumber) {
        schedulingPoint(.update, on: cacheKey(head))
        clearFlags(head, FrameFlags.swapCache)
    }

    /// The folio is cut off its file. It is locked.
    @inline(__always)
    func leaveFile(_ head: FrameNumber) {
        schedulingPoint(.update, on: cacheKey(head))
        setFlags(head, FrameFlags.truncated)
    }

    // MARK: Pins

    func pinCount(_ head: FrameNumber) -> Int {
        schedulingPoint(.load, on: pinKey(head))
        return Int(record(head).pointee.pinCount.load(ordering: .acquiring))
    }

    /// One pin more. The caller has the table locked that led it to the folio, and a reference for the pin.
    func pin(_ head: FrameNumber) {
        schedulingPoint(.update, on: pinKey(head))
        record(head).pointee.pinCount.add(1, ordering: .acquiringAndReleasing)
    }

    /// One pin less. Its reference is dropped afterwards.
    func unpin(_ head: FrameNumber) {
        schedulingPoint(.update, on: pinKey(head))
        record(head).pointee.pinCount.subtract(1, ordering: .acquiringAndReleasing)
    }

    /// Whether somebody may be using the pages by DMA. Call after the entry was cleared and flushed: a pin that comes
    /// later finds no entry.
    func mayBePinned(_ frame: FrameNumber) -> Bool { pinCount(head(of: frame)) > 0 }
}
