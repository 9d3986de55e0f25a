import CLive
import HMM
import Synchronization

// Memory that went behind our back: the C library unmaps what free() gets, and nobody tells us. What is known of such
// pages, and their slots, is found out to be stale when a device next comes to that address, and dropped then.

extension LiveSpace {
    /// The kernel does not answer faults of the page for us any more, although it was told to. For a page that is away,
    /// or in memory in which nothing is write-protected.
    func isStale(_ page: PageNumber) -> Bool {
        clive_registered(page.raw) >= 0 && !clive_still_registered(page.raw)
    }

    /// To be dropped at the next delivery: whoever finds it out holds the mmap lock for reading.
    func noteStale(_ pages: PageRange) {
        stale.withLock { $0.append(pages) }
        clive_wake_returns()
    }

    /// The caller holds `delivery`.
    func dropStale() {
        let found = stale.withLock { (ranges: inout [PageRange]) in
            defer { ranges = [] }
            return ranges
        }
        guard !found.isEmpty else { return }
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        for pages in found { dropStale(pages) }
    }

    /// The mmap lock is held for writing. Nothing happens if somebody has dropped it before, and adopted it anew.
    func dropStale(_ pages: PageRange) {
        guard hasStaleAway(pages) || isStale(pages.lowerBound) else { return }
        telling(InvalidationRange(.unmap, pages)) { forgetMapping(pages) }
    }

    /// Whether a page that seems to be away is not one of the memory that is there now.
    func hasStaleAway(_ pages: PageRange) -> Bool {
        var isStale = false
        forEachAway(pages) { if !isStale { isStale = !clive_still_registered($0.raw) } }
        return isStale
    }

    /// The same for pages of one mapping of the kernel, which is registered as a whole: one page answers for all.
    func hasStaleAway(_ pages: PageRange, in mapping: LiveMapping) -> Bool {
        guard !mapping.isJoined else { return hasStaleAway(pages) }
        guard let away = firstAway(pages) else { return false }
        return !clive_still_registered(away.raw)
    }

    private func firstAway(_ pages: PageRange) -> PageNumber? {
        var page = pages.lowerBound
        while page < pages.upperBound {
            let order = FrameNumber.liveSegmentOrder
            let segmentEnd = page.alignedDown(order: order).advanced(by: 1 << order)
            let end = min(segmentEnd, pages.upperBound)
            if let words = clive_word(page.raw) {
                for offset in 0..<page.distance(to: end) where LiveWord(raw: clive_load(words + offset)).isAway {
                    return page.advanced(by: offset)
                }
            }
            page = end
        }
        return nil
    }
}
