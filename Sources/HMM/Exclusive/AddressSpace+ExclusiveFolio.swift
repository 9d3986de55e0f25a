import Synchronization

// Exclusive access as Linux 6.12 gives it, for drivers that must answer as that kernel does
// (`KernelProfile.exclusiveConvertsFolio`): a batch of pages, each by a walk over all mappings of its whole folio.
//
// Visible differences: the head page of a folio that is large but mapped by single entries takes all its pages along,
// also those in a read-only part; tail pages are refused; a locked folio is refused; a batch in which one page failed
// leaves the others exclusive.
//
// Kernel: mm/rmap.c make_device_exclusive_range, page_make_device_exclusive_one (6.12).

/// What came of a batch.
public struct ExclusiveBatch: ~Copyable {
    /// Pages of the batch that could be faulted in writable, counted from the first.
    public let reached: Int
    /// The frames of pages made exclusive; `FrameNumber.none` for the others. Their folios are locked and referenced.
    public let granted: [FrameNumber]
    private let first: PageNumber
    private let granter: any ExclusiveGranter

    package init(granted: [FrameNumber], at first: PageNumber, by granter: any ExclusiveGranter) {
        reached = granted.count
        self.granted = granted
        self.first = first
        self.granter = granter
    }

    /// Whether the page is exclusive as it was granted. A restore waits for the folio, but whoever takes the mapping
    /// away does not: the page may be unmapped, or have other contents, before the driver stored it.
    public func isStanding(_ index: Int) -> Bool {
        granted[index] != .none && granter.isExclusive(first.advanced(by: index), granted[index])
    }

    /// Unlocks what was granted.
    public consuming func release() {}

    deinit { for frame in granted where frame != .none { granter.endGrant(frame) } }
}

extension AddressSpace {
    /// Pages of a batch at most.
    public static let exclusiveBatchLimit = 64

    /// Makes pages exclusive in the way of 6.12. The mmap lock is held for reading.
    ///
    /// - Throws: when not even the first page can be faulted in: `.badAddress`, `.notSupported`, `.outOfMemory`.
    public func makeExclusiveBatch(_ pages: PageRange) throws(HMMError) -> ExclusiveBatch {
        precondition(pages.pageCount <= Self.exclusiveBatchLimit, "a batch of too many pages")
        var granted: [FrameNumber] = []
        for page in pages {
            do throws(HMMError) {
                granted.append(try reference(page, [.write, .splitHuge]))
            } catch {
                if granted.isEmpty { throw error }
                break
            }
        }
        for (i, frame) in granted.enumerated() {
            if convertFolio(frame, at: pages.lowerBound.advanced(by: i)) { continue }
            frames.put(frame)
            granted[i] = .none
        }
        return ExclusiveBatch(granted: granted, at: pages.lowerBound, by: self)
    }

    /// Leaves the folio locked if `page` became exclusive.
    private func convertFolio(_ frame: FrameNumber, at page: PageNumber) -> Bool {
        let head = frames.head(of: frame)
        guard frame == head, frames.tryLockFolio(head) else { return false }
        let isMade =
            frames.mapping(ofHead: head).isAnonymous && !frames.hasFlags(head, FrameFlags.hugetlb)
            && convertMappings(head, askedFor: page)
        if !isMade { frames.unlockFolio(head) }
        return isMade
    }

    /// Whether the page asked for was writable, and no present mapping of the folio is left.
    private func convertMappings(_ head: FrameNumber, askedFor page: PageNumber) -> Bool {
        var isValid = false
        var present = frames.mappingCount(head) - exclusiveCount(head)
        // An exclusive page is not mapped, as 6.12 counts (__folio_remove_rmap, deferred_split_folio).
        if present > 1, frames.order(ofHead: head) > 0 { frames.setFlags(head, FrameFlags.wasPartlyMapped) }
        machine.walkReverseMap(head) { vma, pages, offset in
            let told = Self.invalidatedBySearch(pages, in: vma, folioPages: frames.pageCount(ofHead: head))
            let goesOn = vma.space.convertPart(pages, head + offset, invalidating: told) { candidate, isWritable in
                present -= 1
                if vma.space === self, candidate == page, isWritable { isValid = true }
            }
            // Who is not looked at is not told, so the look ends when nothing present is left.
            return goesOn && present > 0
        }
        return isValid && present == 0
    }

    /// Entries of the folio that are exclusive to a device.
    private func exclusiveCount(_ head: FrameNumber) -> Int {
        // A small folio has one such entry, and then nothing present is left of it.
        guard frames.order(ofHead: head) > 0 else { return 0 }
        var count = 0
        machine.walkReverseMap(head) { vma, pages, offset in
            count += vma.space.countExclusive(pages, head + offset)
            return true
        }
        return count
    }

    /// What a mirror is told of the look at one VMA: as many pages as the folio has, from where the VMA may map it on.
    /// If the VMA begins in the middle of the folio, that reaches beyond the folio.
    private static func invalidatedBySearch(_ pages: PageRange, in vma: VMA, folioPages: Int) -> PageRange {
        pages.lowerBound..<min(vma.pages.upperBound, pages.lowerBound.advanced(by: folioPages))
    }

    /// Converts the entries of one VMA in order. Stops at an entry that is exclusive already.
    fileprivate func convertPart(
        _ pages: PageRange, _ first: FrameNumber, invalidating told: PageRange,
        _ noteConverted: (PageNumber, _ isWritable: Bool) -> Void
    ) -> Bool {
        let invalidation = beginInvalidation(.exclusive, told)
        var goesOn = true
        for i in 0..<pages.pageCount where goesOn {
            let page = pages.lowerBound.advanced(by: i)
            guard let pte = tables.lockPTE(page) else { continue }
            let entry = tables.read(pte)
            if entry.isPresent, entry.frame == first + i {
                replaceByExclusive(pte, first + i)
                noteConverted(page, entry.isWritable)
            } else if let leaf = entry.softLeaf, leaf.kind == .deviceExclusive, leaf.frame == first + i {
                goesOn = false
            }
            tables.unlock(pte)
        }
        invalidation.end()
        return goesOn
    }

    fileprivate func countExclusive(_ pages: PageRange, _ first: FrameNumber) -> Int {
        var count = 0
        for i in 0..<pages.pageCount {
            guard let pte = tables.entry(pages.lowerBound.advanced(by: i), .pte),
                let leaf = tables.read(pte).softLeaf, leaf.kind == .deviceExclusive
            else { continue }
            if leaf.frame == first + i { count += 1 }
        }
        return count
    }
}
