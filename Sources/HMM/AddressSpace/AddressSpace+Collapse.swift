import Synchronization

// MADV_COLLAPSE: what lies in 2 MiB of single entries is copied into one huge page.
//
// Kernel: mm/khugepaged.c madvise_collapse, hpage_collapse_scan_pmd, collapse_huge_page (6.12).
// Locks: mmap, for reading while a window is looked at and its absent pages are fetched, for writing while it is
// collapsed > VMA mark > anonymous reverse map (writing) > PMD table > PTE table. Folio locks are only tried. The mmap
// lock is dropped to allocate, so everything is looked at again afterwards.

/// Why a window was not collapsed.
enum CollapseFailure {
    /// Nothing can be done about this window; the next one may do better.
    case unsuitable
    /// Somebody uses a page at the moment; the next window may do better.
    case busy
    /// Waiting for missing pages is somebody else's decision (userfaultfd).
    case missing
    case outOfMemory
    /// The mapping is not what it was, or has nothing at all there: the rest is not even looked at.
    case hopeless

    var endsCall: Bool { self == .outOfMemory || self == .hopeless || self == .missing }

    var error: HMMError {
        switch self {
        case .unsuitable: HMMError(.invalidArgument, "the pages cannot become a huge page")
        case .busy: HMMError(.tryAgain, "somebody uses one of the pages")
        case .missing: HMMError(.busy, "missing pages of the mapping are somebody else's to fill")
        case .outOfMemory: HMMError(.outOfMemory, "no memory for a huge page")
        case .hopeless: HMMError(.invalidArgument, "nothing there can become a huge page")
        }
    }
}

extension AddressSpace {
    /// Collapses every whole 2 MiB of the range, mapping by mapping.
    ///
    /// - Throws: `.invalidArgument` for a mapping that may not have huge pages, a range without an aligned 2 MiB whose
    ///   ends lie in one, and windows that cannot be collapsed; `.tryAgain`, `.outOfMemory`. Windows are independent:
    ///   the error is that of the last one that failed. `.outOfMemory` also at the end, for holes between mappings.
    func collapse(_ pages: PageRange) throws(HMMError) {
        lockForReading()
        defer { unlockForReading() }
        var page = pages.lowerBound
        var foundHole = false
        while page < pages.upperBound {
            guard let vma = vmas.firstEnding(after: page),
                let part = (page..<pages.upperBound).intersection(vma.pages)
            else {
                foundHole = true
                break
            }
            if part.lowerBound > page { foundHole = true }
            page = part.upperBound
            try collapse(vma, part)
        }
        if foundHole { throw HMMError(.outOfMemory, "a part of the range is not mapped") }
    }

    /// The mmap lock is held for reading, and dropped and taken again meanwhile.
    private func collapse(_ vma: VMA, _ pages: PageRange) throws(HMMError) {
        guard mayCollapse(vma) else {
            throw HMMError(.invalidArgument, "the mapping may not have huge pages")
        }
        let first = pages.lowerBound.alignedUp(order: Geometry.pmdOrder)
        let end = pages.upperBound.alignedDown(order: Geometry.pmdOrder)
        guard first <= end else { throw CollapseFailure.unsuitable.error }
        var failure: CollapseFailure?
        for start in stride(from: first, to: end, by: Geometry.entriesPerTable) {
            guard let reason = collapseWindow(at: start) else { continue }
            failure = reason
            if reason.endsCall { break }
        }
        if let failure { throw failure.error }
    }

    /// Whether the mapping may have huge pages and is long enough for one.
    private func mayCollapse(_ vma: VMA) -> Bool {
        guard vma.flags.isDisjoint(with: [.noHugePage, .special, .hugetlb]) else { return false }
        // Memory that was never written has nothing to collapse. A file must lie as it can be mapped.
        guard vma.isAnonymous ? vma.anonVMA != nil : vma.isAlignedWithFile else { return false }
        let last = vma.pages.upperBound.alignedDown(order: Geometry.pmdOrder)
        return vma.pages.lowerBound.alignedUp(order: Geometry.pmdOrder) < last
    }

    /// The mapping of the window, if it still is one that can be collapsed. The mmap lock is held.
    func collapsibleVMA(at start: PageNumber) -> VMA? {
        guard let vma = vmas.find(start), vma.hugeWindow(around: start) != nil, mayCollapse(vma) else { return nil }
        return vma
    }

    /// One window: nil when it is a huge page now. The mmap lock is held for reading on entry and on return.
    private func collapseWindow(at start: PageNumber) -> CollapseFailure? {
        guard let vma = collapsibleVMA(at: start) else { return .hopeless }
        if let file = vma.file { return collapseWindow(of: file, Int(vma.index(of: start)), at: start) }
        let scan: CollapseScan
        switch findTable(start) {
        case .leaf: return nil
        case .none: return .hopeless
        case .notPresent: return .unsuitable
        case .table(let pmd): scan = scanWindow(vma, pmd, start)
        }
        if let failure = scan.failure { return failure }
        unlockForReading()
        defer { lockForReading() }
        guard let head = frames.allocateFolio(order: Geometry.pmdOrder) else { return .outOfMemory }
        let failure = collapse(into: head, start, fetchingAbsent: scan.hasAbsent)
        switch failure {
        case .done: return nil
        case .alreadyHuge:
            frames.put(head)
            return nil
        case .failed(let reason):
            frames.put(head)
            return reason
        }
    }

    /// The same for a file: first its pages, then this mapping of them.
    private func collapseWindow(of file: FileMapping, _ first: Int, at start: PageNumber) -> CollapseFailure? {
        guard first + Geometry.entriesPerTable <= file.pageCount else { return .hopeless }
        unlockForReading()
        defer { lockForReading() }
        return file.collapse(at: first) ?? mapCollapsed(file, first, at: start)
    }

    private enum Collapsed {
        case done
        /// Somebody else was faster.
        case alreadyHuge
        case failed(CollapseFailure)
    }

    /// What the PMD entry of a window leads to.
    private enum WindowEntry {
        case none
        case notPresent
        case leaf
        case table(EntryPointer)

        var failure: Collapsed? {
            switch self {
            case .none: .failed(.hopeless)
            case .notPresent: .failed(.unsuitable)
            case .leaf: .alreadyHuge
            case .table: nil
            }
        }
    }

    private func findTable(_ start: PageNumber) -> WindowEntry {
        guard let pmd = tables.entry(start, .pmd) else { return .notPresent }
        let entry = tables.read(pmd)
        if entry.isTable { return .table(pmd) }
        return entry.isNone ? .none : entry.isHugeLeaf ? .leaf : .notPresent
    }

    // MARK: Looking

    private struct CollapseScan {
        var failure: CollapseFailure?
        /// Entries that name pages which are elsewhere: in swap, on a device.
        var hasAbsent = false
    }

    /// Decides from the entries whether it is worth an allocation. Holes and zero pages are no obstacle, absent pages
    /// are fetched, but one page at least must be writable.
    private func scanWindow(_ vma: VMA, _ pmd: EntryPointer, _ start: PageNumber) -> CollapseScan {
        var scan = CollapseScan()
        var isWritable = false
        var large = LargeFolios()
        guard let pte = tables.lockPTE(start) else { return CollapseScan(failure: .unsuitable) }
        defer { tables.unlock(pte) }
        for i in 0..<Geometry.entriesPerTable {
            let entry = tables.read(pte + i)
            if entry.isNone || entry.isSpecial && entry.isPresent {
                if vma.flags.contains(.uffdWP) { return CollapseScan(failure: .missing) }
                continue
            }
            if entry.isUffdWP { return CollapseScan(failure: .unsuitable) }
            if let leaf = entry.softLeaf {
                scan.hasAbsent = true
                if leaf.kind == .deviceExclusive { large.heldByDevice = frames.head(of: leaf.frame) }
            } else if let failure = obstacle(entry.frame, &large) {
                return CollapseScan(failure: failure)
            }
            if large.isUnexplained, machine.profile.exclusiveConvertsFolio { return CollapseScan(failure: .busy) }
            if entry.isWritable { isWritable = true }
        }
        if !isWritable { scan.failure = .unsuitable }
        return scan
    }

    /// What a scan remembers of large folios, which it meets page by page.
    private struct LargeFolios {
        /// The last one with a present page, which was looked at.
        var present = FrameNumber.none
        /// The last one with a page that a device has exclusively. In 6.12 that is no mapping, but a reference.
        var heldByDevice = FrameNumber.none
        var isUnexplained: Bool { present != .none && present == heldByDevice }
    }

    /// What keeps the page from being copied away, by a look at its folio.
    private func obstacle(_ frame: FrameNumber, _ large: inout LargeFolios) -> CollapseFailure? {
        let head = frames.head(of: frame)
        guard head != large.present else { return nil }
        guard !frames.isDeviceFrame(head) else { return .unsuitable }
        guard frames.mapping(ofHead: head).isAnonymous else { return .hopeless }
        guard frames.isOnLRU(head), !frames.looksLocked(head), isOnlyMapped(head) else { return .busy }
        if frames.order(ofHead: head) > 0 { large.present = head }
        return nil
    }

    /// Whether all references of the folio are those of entries and of the swap cache.
    private func isOnlyMapped(_ head: FrameNumber) -> Bool {
        frames.refCount(head) == frames.mappingCount(head) + machine.cacheReferences(ofHead: head)
    }

    // MARK: Collapsing

    /// The window's pages go into the new folio. No lock is held on entry and on return.
    private func collapse(into head: FrameNumber, _ start: PageNumber, fetchingAbsent: Bool) -> Collapsed {
        lockForReading()
        if let failure = fetch(start, onlyLooking: !fetchingAbsent) {
            unlockForReading()
            return failure
        }
        unlockForReading()
        lockForWriting()
        defer { unlockForWriting() }
        guard let vma = collapsibleVMA(at: start), vma.isAnonymous else { return .failed(.hopeless) }
        let found = findTable(start)
        guard case .table(let pmd) = found else { return found.failure! }
        markWrite(vma)
        return replaceTable(vma, pmd, start, by: head)
    }

    /// Brings absent pages of the window home, as a read of a CPU would. The mmap lock is held for reading.
    private func fetch(_ start: PageNumber, onlyLooking: Bool) -> Collapsed? {
        guard let vma = collapsibleVMA(at: start), vma.isAnonymous else { return .failed(.hopeless) }
        if let failure = findTable(start).failure { return failure }
        guard !onlyLooking else { return nil }
        for page in start..<start.advanced(by: Geometry.entriesPerTable) {
            guard let pte = tables.entry(page, .pte), tables.read(pte).softLeaf != nil else { continue }
            // Once: an entry that is not present afterwards ends the collapse.
            let outcome = fault(Fault(vma: vma, page: page, write: false, holdsMMapLock: true))
            guard outcome == .done else { return .failed(.hopeless) }
        }
        return nil
    }

    /// Takes the table of the window out of use, so that nobody can reach its pages any more, and puts a huge leaf in
    /// its place, or the table back. The VMA is marked.
    private func replaceTable(
        _ vma: VMA, _ pmd: EntryPointer, _ start: PageNumber, by head: FrameNumber
    ) -> Collapsed {
        let pages = start..<start.advanced(by: Geometry.entriesPerTable)
        let object = vma.anonVMA!
        object.lockWrite()
        let invalidation = beginInvalidation(.clear, pages)
        tables.lock(pmd)
        let table = tables.exchange(pmd, .empty).table
        tables.unlock(pmd)
        flushTLB()
        invalidation.end()
        var isolated = ContiguousArray<FrameNumber>()
        isolated.reserveCapacity(Geometry.entriesPerTable)
        let failure = isolate(vma, tables.pool.entries(table), &isolated)
        if failure != nil {
            release(isolated)
            tables.lock(pmd)
            tables.set(pmd, .table(table))
            tables.unlock(pmd)
        }
        object.unlockWrite()
        if let failure { return .failed(failure) }
        moveContents(tables.pool.entries(table), to: head)
        release(isolated)
        tables.lock(pmd)
        frames.initializeHugeAnonymous(head, mapping: .anonymous(object.id), index: vma.index(of: start))
        tables.deposit(table, at: pmd)
        tables.set(pmd, writableEntry(head).writable(vma.isWritable).leaf())
        tables.unlock(pmd)
        return .done
    }

    /// Locks the folios of a table that nobody can reach, takes them off the lists of reclaim, and holds a reference to
    /// each.
    private func isolate(
        _ vma: VMA, _ pte: EntryPointer, _ isolated: inout ContiguousArray<FrameNumber>
    ) -> CollapseFailure? {
        var isWritable = false
        for i in 0..<Geometry.entriesPerTable {
            let entry = tables.read(pte + i)
            if entry.isNone || entry.isSpecial && entry.isPresent {
                if vma.flags.contains(.uffdWP) { return .missing }
                continue
            }
            guard entry.isPresent, !entry.isUffdWP, !frames.isDeviceFrame(entry.frame) else { return .unsuitable }
            guard !frames.hasFlags(entry.frame, FrameFlags.poisoned) else { return .hopeless }
            let head = frames.head(of: entry.frame)
            // Only a large folio can be met again.
            if frames.order(ofHead: head) == 0 || !isolated.contains(head) {
                guard frames.tryLockFolio(head) else { return .busy }
                guard isOnlyMapped(head), frames.isOnLRU(head) else {
                    frames.unlockFolio(head)
                    return .busy
                }
                frames.takeOffLRU(head)
                frames.get(head)
                isolated.append(head)
            }
            if entry.isWritable { isWritable = true }
        }
        return isWritable ? nil : .unsuitable
    }

    /// Lets go of isolated folios. Those that nothing maps any more are freed, with their swap slots.
    private func release(_ isolated: ContiguousArray<FrameNumber>) {
        for head in isolated {
            frames.unlockFolio(head)
            frames.putOnLRU(head)
            machine.releaseUnmapped(head)
        }
    }

    /// Copies the pages of an unreachable table into the folio, and gives up their mappings. All are locked.
    private func moveContents(_ pte: EntryPointer, to head: FrameNumber) {
        for i in 0..<Geometry.entriesPerTable {
            let entry = tables.read(pte + i)
            let isCounted = entry.isPresent && !entry.isSpecial
            if isCounted {
                frames.copy(entry.frame, to: head + i)
                machine.statistics.bytesCopied.add(UInt64(Geometry.pageSizeBytes))
            } else {
                clearPages(frames.bytes(of: head + i))
            }
            if !entry.isNone { tables.set(pte + i, .empty) }
            if isCounted {
                frames.removeMapping(entry.frame)
                // The isolation keeps the folio until it is unlocked.
                frames.put(entry.frame)
            }
        }
    }
}
