import CLive
import Glibc
import HMM

// System calls that change mappings or rights: mirrors are told before, and what was away is accounted for after.
//
// They answer 0 or an errno, as the calls do. A program that makes such a call by itself leaves mirrors with pages that
// are gone; `hmm exec` puts these before those of the C library.
//
// Lock order: `delivery`, then mmap (writing) > driver locks (in callbacks).

extension LiveSpace {
    /// munmap. Pages that were in a device's memory are dropped there.
    public func unmap(_ pages: PageRange) -> Int32 {
        changeMappings(.unmap, pages) { Self.errno(clive_sys_munmap(pages.start, pages.lengthBytes)) }
    }

    /// A call that puts another mapping in the place of whatever is there, as mmap with MAP_FIXED does. It answers
    /// whether it did.
    public func mapOver(_ pages: PageRange, _ call: () -> Bool) {
        _ = changeMappings(.unmap, pages) { call() ? 0 : EINVAL }
    }

    /// mprotect with the rights PROT_READ, PROT_WRITE and PROT_EXEC.
    public func protect(_ pages: PageRange, _ protection: Int32) -> Int32 {
        deliverInvalidations()
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        guard !pages.isEmpty else { return Self.errno(clive_sys_mprotect(pages.start, 0, protection)) }
        // Mapping by mapping, as the kernel does it: what has the rights already is not told to anybody.
        var page = pages.lowerBound
        while page < pages.upperBound {
            guard let mapping = LiveMapping(containing: page) else { return ENOMEM }
            let part = page..<min(mapping.pages.upperBound, pages.upperBound)
            let status = protect(part, of: mapping, protection)
            guard status == 0 else { return status }
            page = part.upperBound
        }
        return 0
    }

    private func protect(_ part: PageRange, of mapping: LiveMapping, _ protection: Int32) -> Int32 {
        let rights = Protection(posix: protection)
        guard rights != mapping.protection else {
            return Self.errno(clive_sys_mprotect(part.start, part.lengthBytes, protection))
        }
        return telling(InvalidationRange(.protectionVMA, part, newProtection: rights)) {
            let status = Self.errno(clive_sys_mprotect(part.start, part.lengthBytes, protection))
            if status == 0, !rights.contains(.write) { forEachAway(part) { makeReadOnly($0) } }
            return status
        }
    }

    /// madvise.
    public func advise(_ pages: PageRange, _ advice: Int32) -> Int32 {
        switch advice {
        case MADV_DONTNEED, Advice.dontneedLocked: discard(pages, advice)
        case Advice.populateRead, Advice.populateWrite: populate(pages, advice)
        case MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED,
            MADV_DONTFORK, MADV_DOFORK, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK:
            Self.errno(clive_sys_madvise(pages.start, pages.lengthBytes, advice))
        default: changeContents(pages, advice)
        }
    }

    /// Advice that the headers of older systems do not have.
    private enum Advice {
        static let populateRead: Int32 = 22
        static let populateWrite: Int32 = 23
        static let dontneedLocked: Int32 = 24
    }

    /// Drops pages, mapping by mapping: those behind a hole go too, and then the answer is ENOMEM.
    private func discard(_ pages: PageRange, _ advice: Int32) -> Int32 {
        deliverInvalidations()
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        var page = pages.lowerBound
        var status: Int32 = 0
        while page < pages.upperBound {
            guard let mapping = LiveMapping(endingAfter: page), mapping.pages.lowerBound < pages.upperBound else {
                return ENOMEM
            }
            if mapping.pages.lowerBound > page { status = ENOMEM }
            let part = max(page, mapping.pages.lowerBound)..<min(mapping.pages.upperBound, pages.upperBound)
            let answer = telling(InvalidationRange(.clear, part)) {
                let answer = Self.errno(clive_sys_madvise(part.start, part.lengthBytes, advice))
                if answer == 0 { forget(part) }
                return answer
            }
            guard answer == 0 else { return answer }
            page = part.upperBound
        }
        return status
    }

    /// Advice that takes pages away from page tables, or may.
    private func changeContents(_ pages: PageRange, _ advice: Int32) -> Int32 {
        deliverInvalidations()
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        return telling(InvalidationRange(.clear, pages)) {
            Self.errno(clive_sys_madvise(pages.start, pages.lengthBytes, advice))
        }
    }

    /// The kernel would meet pages that are away; they come home first, as by a CPU's access.
    private func populate(_ pages: PageRange, _ advice: Int32) -> Int32 {
        deliverInvalidations()
        mmapLock.lockRead()
        defer { mmapLock.unlockRead() }
        let isWrite = advice == Advice.populateWrite
        var page = pages.lowerBound
        while page < pages.upperBound, let mapping = LiveMapping(containing: page) {
            guard mapping.protection.contains(isWrite ? .write : .read) else { break }
            let end = min(page.advanced(by: LiveLook.limit), mapping.pages.upperBound, pages.upperBound)
            guard (try? faultIn(page..<end, write: isWrite, in: mapping)) != nil else { break }
            page = end
        }
        // What is left over has an error, which the kernel knows.
        let rest = min(page, pages.upperBound)..<pages.upperBound
        return rest.isEmpty ? 0 : Self.errno(clive_sys_madvise(rest.start, rest.lengthBytes, advice))
    }

    // MARK: What was away

    private func changeMappings(_ event: InvalidationEvent, _ pages: PageRange, _ call: () -> Int32) -> Int32 {
        deliverInvalidations()
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        guard !pages.isEmpty else { return call() }
        return telling(InvalidationRange(event, pages)) {
            let status = call()
            if status == 0 { forgetMapping(pages) }
            return status
        }
    }

    /// The bytes of pages that are away go with their mapping.
    func forget(_ pages: PageRange) {
        forEachKnown(pages) { part in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: part.pageCount) { slots in
                for page in part { dropCoherent(page) }
                clive_forget(part.lowerBound.raw, part.pageCount, slots.baseAddress!)
                giveBack(slots: slots)
            }
        }
    }

    /// The mapping is gone, and with it what was registered of it.
    func forgetMapping(_ pages: PageRange) {
        forget(pages)
        _ = clive_unregister(pages.lowerBound.raw, UInt64(pages.pageCount))
    }

    /// The page is counted to no device any more. Answers whether it may lie on the node of device-coherent memory.
    @discardableResult
    func dropCoherent(_ page: PageNumber) -> Bool {
        let word = LiveWord.load(page)
        guard word.isCoherent else { return false }
        let isOnNode = isOnNode(word.frame)
        return dropCount(page, word.frame) && isOnNode
    }

    /// Calls `body` for the parts of the range, at most 512 pages each, of which anything is known.
    func forEachKnown(_ pages: PageRange, _ body: (PageRange) -> Void) {
        var page = pages.lowerBound
        while page < pages.upperBound {
            if clive_word(page.raw) == nil {
                page = page.alignedDown(order: FrameNumber.liveSegmentOrder)
                    .advanced(by: 1 << FrameNumber.liveSegmentOrder)
                continue
            }
            let table = page.alignedDown(order: Geometry.pmdOrder).advanced(by: LiveLook.limit)
            let end = min(table, pages.upperBound)
            body(page..<end)
            page = end
        }
    }

    func forEachAway(_ pages: PageRange, _ body: (PageNumber) -> Void) {
        forEachKnown(pages) { part in for page in part where LiveWord.load(page).isAway { body(page) } }
    }

    /// The page goes home without the right to write.
    func makeReadOnly(_ page: PageNumber) {
        noteProtection()
        while true {
            let word = LiveWord.load(page)
            guard word.isAway else { return }
            if clive_change(page.raw, word.raw, word.raw | UInt64(CLIVE_READONLY)) { return }
        }
    }

    /// 0, or the errno of a call that answers it as a negative number.
    static func errno(_ status: Int) -> Int32 { status < 0 ? Int32(-status) : 0 }
}

extension PageRange {
    var start: UInt { UInt(lowerBound.address.raw) }
    var lengthBytes: Int { pageCount * Geometry.pageSizeBytes }
}
