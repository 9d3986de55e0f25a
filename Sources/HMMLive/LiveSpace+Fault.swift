import CLive
import HMM

// Faults that are made for a device, in normal context: mirrors are told before, as a kernel does it.
//
// Lock order: mmap (the caller's) > driver locks (in callbacks).

extension LiveSpace {
    /// Makes the pages present, and writable if so wanted, as if a CPU had touched each: pages in a device's memory
    /// come home, exclusive ones are restored. The mmap lock is held; `pages` lie in one mapping and in one table.
    ///
    /// - Throws: `.badAddress` when a page cannot be had.
    func faultIn(_ pages: PageRange, write: Bool, in mapping: LiveMapping) throws(HMMError) {
        // A CPU, or the kernel for want of memory, may take back at once what was made; it does not do so for ever.
        for _ in 0..<64 {
            var hasHoles = false
            var broken: PageRange?
            var away: [PageNumber] = []
            var counted: [PageNumber] = []
            try LiveLook.forEach(pages, in: mapping) { page, seen throws(HMMError) in
                if seen.word.isAway { away.append(page) }
                if seen.isHole { hasHoles = true }
                if write, seen.isPresent, !seen.isWritable {
                    broken = (broken?.lowerBound ?? page)..<page.advanced(by: 1)
                    if seen.word.isCoherent, seen.isShared { counted.append(page) }
                }
                return true
            }
            for page in away { try fetch(page) }
            // What came home may be protected. That is lifted here, where mirrors are told before, and not by the
            // thread that answers faults, which would tell them afterwards of a write that nobody made.
            if write, !away.isEmpty { continue }
            machine.statistics.cpuFaults.add(UInt64(pages.pageCount))
            if try populate(pages, write: write, hasHoles: hasHoles || !away.isEmpty, broken: broken) {
                // The copy is a page of the process's own, which the kernel took from the system.
                _ = bringHomeFromNode(counted.filter { dropCoherent($0) }.map(\.raw))
                return
            }
        }
        throw HMMError(.badAddress, "a page that was requested could not be made present")
    }

    /// Makes a page present where there is nothing, or the page of zeros. Mirrors have been told by the caller. False:
    /// it cannot be had.
    func fill(_ page: PageNumber, write: Bool) -> Bool {
        if clive_registered(page.raw) >= 0 {
            // In memory that may not be written only this makes a page that is a process's own.
            _ = write ? clive_zero(page.raw, 1) : clive_zero_own(page.raw)
            _ = clive_write_protect(page.raw, 1, false)
        }
        return clive_populate(page.raw, 1, write) == 0
    }

    /// Brings one page home that is in a slot, as a CPU's access would.
    private func fetch(_ page: PageNumber) throws(HMMError) {
        let word = LiveWord.load(page)
        guard word.isAway else { return }
        let pages = page..<page.advanced(by: 1)
        if word.isExclusive {
            try restoreExclusive(pages)
        } else {
            let owner = machine.privateFaultHandler(for: word.frame)?.pageCameHome(page, in: notifiers)
            bringHome(pages, .migrate, owner: owner)
        }
    }

    /// False: not everything is there yet.
    private func populate(
        _ pages: PageRange, write: Bool, hasHoles: Bool, broken: PageRange?
    ) throws(HMMError) -> Bool {
        let first = pages.lowerBound.raw
        // The kernel would ask us for what is missing.
        if hasHoles { forEachAdopted(pages) { _ = clive_zero($0.lowerBound.raw, $0.pageCount) } }
        guard let broken else { return clive_populate(first, pages.pageCount, write) == 0 }
        return telling(InvalidationRange(.clear, broken)) {
            forEachAdopted(broken) { _ = clive_write_protect($0.lowerBound.raw, $0.pageCount, false) }
            return clive_populate(first, pages.pageCount, write) == 0
        }
    }

    /// Calls `body` for the runs of pages whose faults are answered here: all of a mapping, or parts of it.
    private func forEachAdopted(_ pages: PageRange, _ body: (PageRange) -> Void) {
        var first = pages.lowerBound
        while first < pages.upperBound {
            let isAdopted = clive_registered(first.raw) >= 0
            var end = first.advanced(by: 1)
            while end < pages.upperBound, (clive_registered(end.raw) >= 0) == isAdopted { end = end.advanced(by: 1) }
            if isAdopted { body(first..<end) }
            first = end
        }
    }

    /// Runs `body` as the change that mirrors are told of.
    func telling<Result>(_ range: InvalidationRange, _ body: () -> Result) -> Result {
        let invalidation = Invalidation.begin(notifiers, range)
        let result = body()
        invalidation.end()
        return result
    }

    // MARK: Home

    /// Brings pages of the range home that are in slots, after telling mirrors. The mmap lock is held. Answers how many
    /// came.
    ///
    /// - Parameter held: a slot whose folio the caller has locked.
    @discardableResult
    func bringHome(
        _ pages: PageRange, _ event: InvalidationEvent, owner: NotifierOwner? = nil, holding held: FrameNumber = .none
    ) -> Int {
        telling(InvalidationRange(event, pages, owner: owner)) { bringHome(pages, holding: held) }
    }

    private func bringHome(_ pages: PageRange, holding held: FrameNumber) -> Int {
        let count = pages.pageCount
        return withUnsafeTemporaryAllocation(of: UInt32.self, capacity: count) { slots in
            clive_bring(pages.lowerBound.raw, count, nil, slots.baseAddress!)
            let moved = giveBack(slots: slots, holding: held)
            machine.statistics.pagesToSystem.add(UInt64(moved))
            return moved
        }
    }
}
