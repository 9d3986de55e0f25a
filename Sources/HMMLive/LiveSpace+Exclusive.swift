import CLive
import Glibc
import HMM

// Exclusive access: the page goes into a slot that belongs to no device's memory, where only devices reach it. A CPU
// that touches its address gets it back in its own fault, and the mirrors are told of it as of any return.
//
// Lock order: mmap (the caller's) > the slot's folio > driver locks (in callbacks).

extension LiveSpace: ExclusiveGranter {
    public func attemptExclusive(_ page: PageNumber, owner: NotifierOwner) throws(HMMError) -> ExclusiveGrant? {
        let pages = page..<page.advanced(by: 1)
        let mapping = try exclusiveMapping(page)
        try faultIn(pages, write: true, in: mapping)
        try requireAnonymous(page, in: mapping)
        guard let frame = try takeExclusive(page, in: mapping, owner: owner) else { return nil }
        return ExclusiveGrant(page: page, frame: frame, by: self)
    }

    public func makeExclusiveBatch(_ pages: PageRange) throws(HMMError) -> ExclusiveBatch {
        var granted: [FrameNumber] = []
        for page in pages {
            do throws(HMMError) {
                let mapping = try exclusiveMapping(page)
                try faultIn(page..<page.advanced(by: 1), write: true, in: mapping)
                granted.append(.none)
            } catch {
                if granted.isEmpty { throw error }
                break
            }
        }
        for index in granted.indices {
            let page = pages.lowerBound.advanced(by: index)
            guard let mapping = LiveMapping(containing: page), (try? requireAnonymous(page, in: mapping)) != nil,
                let frame = try? takeExclusive(page, in: mapping, owner: nil)
            else { continue }
            granted[index] = frame
        }
        return ExclusiveBatch(granted: granted, at: pages.lowerBound, by: self)
    }

    public func restoreExclusive(_ pages: PageRange) throws(HMMError) {
        for page in pages where LiveWord.load(page).isExclusive {
            bringHome(page..<page.advanced(by: 1), .exclusive)
        }
    }

    package func isExclusive(_ page: PageNumber, _ frame: FrameNumber) -> Bool {
        let word = LiveWord.load(page)
        return word.isExclusive && word.frame == frame
    }

    package func endGrant(_ frame: FrameNumber) { machine.frames.unlockFolio(frame) }

    private func exclusiveMapping(_ page: PageNumber) throws(HMMError) -> LiveMapping {
        guard let mapping = LiveMapping(containing: page), mapping.protection.contains(.write), !mapping.isSpecial
        else { throw HMMError(.badAddress, "nothing that may be written is mapped") }
        return mapping
    }

    private func requireAnonymous(_ page: PageNumber, in mapping: LiveMapping) throws(HMMError) {
        var isFile = false
        try LiveLook.forEach(page..<page.advanced(by: 1), in: mapping) { _, seen throws(HMMError) in
            isFile = seen.isFile
            return true
        }
        guard mapping.isPrivateMemory, !isFile else {
            throw HMMError(.notSupported, "only anonymous pages of ordinary size can be exclusive")
        }
    }

    /// Attempts on a page that somebody holds.
    private static let patience = 1_000

    /// The slot, its folio locked; nil when the page is somebody else's at the moment.
    private func takeExclusive(
        _ page: PageNumber, in mapping: LiveMapping, owner: NotifierOwner?
    ) throws(HMMError) -> FrameNumber? {
        let pages = page..<page.advanced(by: 1)
        try adoptMapping(mapping, around: pages)
        guard let frame = exclusiveMemory.allocate() else {
            throw HMMError(.outOfMemory, "no slot for an exclusive page")
        }
        // Of device-coherent memory it is taken first: CPUs reach that.
        let word = LiveWord.load(page)
        if word.isCoherent { _ = uncount(page, word.frame, isHome: true) }
        let invalidation = Invalidation.begin(notifiers, InvalidationRange(.exclusive, pages, owner: owner))
        var number = frame.raw
        var result: UInt8 = 0
        var tries = 0
        repeat {
            if clive_take(page.raw, &number, 1, UInt64(CLIVE_EXCLUSIVE), &result) == 1 { break }
            tries += 1
            SyncThread.yield()
        } while result == UInt8(EBUSY) && tries < Self.patience && !LiveWord.load(page).isCoherent
        invalidation.end()
        if result == 0 { return frame }
        exclusiveMemory.giveBack(frame)
        // An I/O that holds the page may take for ever, and the caller's own stack does.
        if tries == Self.patience { throw HMMError(.busy, "the page is pinned, or of the stack in use") }
        return nil
    }
}
