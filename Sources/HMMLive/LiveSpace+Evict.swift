import CLive
import Glibc
import HMM

// Device memory is given up without asking for addresses: a slot knows its page.
//
// Lock order: mmap (reading) > folio, by trylock > driver locks (in callbacks).

extension LiveSpace: ForeignAddressSpace {
    /// The page whose bytes the frame of a device has, or is counted for; nil for none.
    private func page(of frame: FrameNumber) -> PageNumber? {
        let inPlace = coherentPage(frame).pointee
        let raw = inPlace == 0 ? clive_owner(frame.raw) : inPlace
        return raw == 0 ? nil : PageNumber(raw)
    }

    func coherentPage(_ frame: FrameNumber) -> UnsafeMutablePointer<UInt64> {
        coherentPages.elements(of: UInt64.self) + Int(frame.raw)
    }

    package func evictAll(of memory: DeviceMemory) -> Int {
        deliverInvalidations()
        mmapLock.lockRead()
        defer { mmapLock.unlockRead() }
        var moved = 0
        for range in memory.chunkRanges {
            for start in stride(from: 0, to: range.count, by: LiveLook.limit) {
                let part = start..<min(start + LiveLook.limit, range.count)
                let home = bringHomeFromNode(part.map { coherentPage(range.first + $0).pointee }.filter { $0 != 0 })
                for offset in part { moved += evict(range.first + offset, home: home) }
            }
        }
        return moved
    }

    /// Brings pages home that their device has not used for longest. The mmap lock is held. Answers how many came.
    func evictLeastRecentlyUsed(of memory: DeviceMemory, count: Int) -> Int {
        memory.giveUpLeastRecentlyUsed(count) { evict($0) }
    }

    /// One page, if nobody has its folio locked.
    ///
    /// - Parameter home: pages that have left the node of device-coherent memory.
    private func evict(_ frame: FrameNumber, home: Set<UInt64> = []) -> Int {
        let frames = machine.frames
        guard frames.isLarge(frame) || page(of: frame) != nil, frames.tryGet(frame) else { return 0 }
        let head = frames.head(of: frame)
        guard frames.tryLockFolio(head) else {
            frames.put(frame)
            return 0
        }
        defer {
            frames.unlockFolio(head)
            frames.put(head)
        }
        if frames.isLarge(head) { return evictUnit(head) }
        guard let page = page(of: frame) else { return 0 }
        let pages = page..<page.advanced(by: 1)
        let word = LiveWord.load(page)
        guard word.frame == frame else { return 0 }
        if word.isCoherent { return uncount(page, frame, isHome: home.contains(page.raw)) ? 1 : 0 }
        return bringHome(pages, .clear, holding: frame)
    }

    /// The page that has its bytes in a slot, or had until a CPU took it home a moment ago.
    private func pageInSlot(_ slot: FrameNumber) -> PageNumber? {
        let raw = clive_owner(slot.raw)
        return raw != 0 && LiveWord.load(PageNumber(raw)).frame == slot ? PageNumber(raw) : nil
    }

    /// All pages of a folio of 2 MiB, which is locked and referenced by the caller.
    private func evictUnit(_ head: FrameNumber) -> Int {
        let size = 1 << Geometry.pmdOrder
        var moved = 0
        var index = 0
        while index < size {
            guard let first = pageInSlot(head + index) else {
                index += 1
                continue
            }
            var end = index + 1
            // Neighbours, unless a part of them was moved to another address.
            while end < size, pageInSlot(head + end) == first.advanced(by: end - index) { end += 1 }
            moved += bringHome(first..<first.advanced(by: end - index), .clear, holding: head)
            index = end
        }
        return moved
    }

    /// The page is the device's no more; its bytes were at its address all the time. The folio is locked. False: it is
    /// not, or it cannot leave the node.
    ///
    /// - Parameter isHome: it has left the node of device-coherent memory already.
    func uncount(_ page: PageNumber, _ frame: FrameNumber, isHome: Bool = false) -> Bool {
        let isDone = telling(InvalidationRange(.clear, page..<page.advanced(by: 1))) {
            let leaves = isHome || !isOnNode(frame) || !bringHomeFromNode([page.raw]).isEmpty
            return leaves && dropCount(page, frame)
        }
        if isDone { machine.statistics.pagesToSystem.add() }
        return isDone
    }

    // MARK: Nodes

    /// Whether the pages of the frame's memory lie on a node of their own.
    func isOnNode(_ frame: FrameNumber) -> Bool {
        memoryNodes != nil && machine.frames.deviceMemory(of: frame)?.kind == .coherent
    }

    /// Moves pages from the node of device-coherent memory to one of the processors'. Answers those that are on none of
    /// the device's any more, and those that the kernel does not move: the page of zeros, what another process shares.
    func bringHomeFromNode(_ pages: [UInt64]) -> Set<UInt64> {
        guard let memoryNodes, !pages.isEmpty else { return [] }
        var results = [UInt8](repeating: 0, count: pages.count)
        memoryNodes.bringHome(pages, &results)
        return Set(zip(pages, results).filter { $1 != UInt8(EBUSY) && $1 != UInt8(ENOMEM) }.map(\.0))
    }

    // MARK: Counts

    /// Counts the page, which is at its address, to the frame. False: it is not there, or counted already.
    func count(_ page: PageNumber, to frame: FrameNumber) -> Bool {
        guard clive_word(page.raw) != nil else { return false }
        coherentPage(frame).pointee = page.raw
        while true {
            let word = LiveWord.load(page)
            guard word.isPlainlyHome else {
                coherentPage(frame).pointee = 0
                return false
            }
            let new = word.raw | UInt64(CLIVE_COHERENT) | UInt64(frame.raw) << UInt64(CLIVE_FRAME_SHIFT)
            // A write that is let through at this moment has the word for itself: again, when it is done.
            if clive_change(page.raw, word.raw, new) { return true }
        }
    }

    /// The page is counted to no device any more, and the frame is free. False: it was not counted to this one.
    func dropCount(_ page: PageNumber, _ frame: FrameNumber) -> Bool {
        while true {
            let word = LiveWord.load(page)
            guard word.isCoherent, word.frame == frame else { return false }
            let kept = word.raw & ~(UInt64(CLIVE_COHERENT) | LiveWord.frameBits)
            guard clive_change(page.raw, word.raw, kept) else { continue }
            coherentPage(frame).pointee = 0
            machine.frames.put(frame)
            return true
        }
    }
}
