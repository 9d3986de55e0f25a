/// What madvise is asked to do.
public enum Advice: String, Sendable, CaseIterable {
    case hugepage
    case nohugepage
    /// Forget the contents; the next access finds zeros, or what the file has.
    case dontneed
    /// The contents are not needed; they may be dropped instead of swapped while they stay clean.
    case free
    /// Move the pages to swap.
    case pageout
    /// Make huge pages of what is there.
    case collapse
    case populateRead = "populate-read"
    case populateWrite = "populate-write"
    /// Take the range out of the file.
    case remove
}

// madvise.
//
// Kernel: mm/madvise.c madvise_walk_vmas and its visitors (6.12).

extension AddressSpace {
    /// - Throws: `.outOfMemory` when a part of the range is not mapped (mapped parts are done, but populating stops
    ///   there) or memory ran out; `.invalidArgument`, `.accessDenied`, `.badAddress`, `.tryAgain` as the advice says.
    public func advise(_ pages: PageRange, _ advice: Advice) throws(HMMError) {
        guard !pages.isEmpty, pages.upperBound <= Geometry.endPage else {
            throw HMMError(.invalidArgument, "the range is empty or lies outside the address space")
        }
        switch advice {
        case .populateRead, .populateWrite: return try populate(pages, write: advice == .populateWrite)
        case .remove: return try removeFromFiles(pages)
        case .collapse: return try collapse(pages)
        case .hugepage, .nohugepage:
            lockForWriting()
            defer { unlockForWriting() }
            try visitVMAs(pages) { vma, part throws(HMMError) in
                try adviseHuge(vma, part, wanted: advice == .hugepage)
            }
        case .dontneed, .free, .pageout:
            lockForReading()
            defer { unlockForReading() }
            try visitVMAs(pages) { vma, part throws(HMMError) in try adviseContents(vma, part, advice) }
        }
    }

    /// Calls `visit` for the mapped parts of the range, in order. Holes are passed over and reported at the end.
    private func visitVMAs(
        _ pages: PageRange, _ visit: (VMA, PageRange) throws(HMMError) -> Void
    ) throws(HMMError) {
        var page = pages.lowerBound
        var foundHole = false
        while page < pages.upperBound {
            guard let vma = vmas.firstEnding(after: page) else {
                foundHole = true
                break
            }
            guard let part = (page..<pages.upperBound).intersection(vma.pages) else {
                foundHole = true
                break
            }
            if part.lowerBound > page { foundHole = true }
            page = part.upperBound
            try visit(vma, part)
        }
        if foundHole { throw HMMError(.outOfMemory, "a part of the range is not mapped") }
    }

    private func adviseHuge(_ vma: VMA, _ pages: PageRange, wanted: Bool) throws(HMMError) {
        if vma.flags.contains(.special) { throw HMMError(.invalidArgument, "the mapping is not memory") }
        var flags = vma.flags
        flags.remove(wanted ? .noHugePage : .hugePage)
        flags.insert(wanted ? .hugePage : .noHugePage)
        guard flags != vma.flags else { return }
        let changed = try modify(vma, pages, flags: flags)
        markWrite(changed)
        changed.flags = flags
    }

    private func adviseContents(_ vma: VMA, _ pages: PageRange, _ advice: Advice) throws(HMMError) {
        var pages = pages
        if vma.isHugetlb {
            guard advice == .dontneed, pages.lowerBound.isAligned(order: Geometry.pmdOrder) else {
                throw HMMError(.invalidArgument, "hugetlb pages cannot be advised so")
            }
            pages = pages.lowerBound..<pages.upperBound.alignedDown(order: Geometry.pmdOrder)
            guard !pages.isEmpty else { return }
        }
        if vma.flags.contains(.special) || vma.flags.contains(.locked) {
            throw HMMError(.invalidArgument, "the mapping is locked or not memory")
        }
        switch advice {
        case .pageout: pageOut(vma, pages)
        case .free:
            guard vma.isAnonymous else { throw HMMError(.invalidArgument, "only anonymous pages can be freed lazily") }
            freeLazily(vma, pages)
        default: zapNotified(vma, pages)
        }
    }

    // MARK: Populate

    /// Faults every page in, as an access would, and reports what stands in the way.
    ///
    /// Kernel: mm/madvise.c madvise_populate, mm/gup.c faultin_page_range (6.12).
    private func populate(_ pages: PageRange, write: Bool) throws(HMMError) {
        lockForReading()
        defer { unlockForReading() }
        var page = pages.lowerBound
        while page < pages.upperBound {
            guard let vma = vmas.find(page) else { throw HMMError(.outOfMemory, "a part of the range is not mapped") }
            guard write ? vma.isWritable : vma.isReadable, !vma.flags.contains(.special) else {
                throw HMMError(.invalidArgument, "the mapping does not permit the access")
            }
            let part = (page..<pages.upperBound).intersection(vma.pages)!
            page = part.upperBound
            switch fault(part, in: vma, write: write) {
            case .done: continue
            case .outOfMemory: throw HMMError(.outOfMemory, "no memory to populate the range")
            default: throw HMMError(.badAddress, "a page of the range cannot be had")
            }
        }
    }

    // MARK: Remove

    private func removeFromFiles(_ pages: PageRange) throws(HMMError) {
        var page = pages.lowerBound
        var foundHole = false
        while page < pages.upperBound {
            // The mmap lock is dropped for the truncation, so every round looks the mapping up anew.
            lockForReading()
            let vma = vmas.firstEnding(after: page)
            guard let vma, let part = (page..<pages.upperBound).intersection(vma.pages) else {
                unlockForReading()
                foundHole = true
                break
            }
            if part.lowerBound > page { foundHole = true }
            let file = vma.file
            let index = Int(vma.index(of: part.lowerBound))
            let flags = vma.flags
            unlockForReading()
            guard let file, !flags.contains(.locked) else {
                throw HMMError(.invalidArgument, "the mapping has no file, or is locked")
            }
            guard flags.contains([.shared, .mayWrite]) else {
                throw HMMError(.accessDenied, "the file may not be written through the mapping")
            }
            if flags.contains(.hugetlb) {
                removeHugetlb(file, index..<index + part.pageCount)
            } else {
                file.removePages(index..<min(index + part.pageCount, file.pageCount))
            }
            page = part.upperBound
        }
        if foundHole { throw HMMError(.outOfMemory, "a part of the range is not mapped") }
    }
}
