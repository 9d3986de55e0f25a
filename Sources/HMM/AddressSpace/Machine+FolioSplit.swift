import Synchronization

// A large folio becomes single ones. Its pages stay where they are, in memory and in every address space; only who owns
// them changes.
//
// For that nobody may reach them: all entries become migration entries, and the reference count, which then has to be
// what the caller and the caches hold, is set to zero. Any reference more, and everything is put back.
//
// Kernel: mm/huge_memory.c split_huge_page_to_list_to_order, __split_huge_page, __split_huge_page_tail (6.12).
// Locks: folio (the caller's) > reverse map > PMD table > PTE table.
// Differs from Linux: the reverse map is not held from the first walk to the second. Whoever appears in it between is
// linked behind the source of its entries, and the folio lock keeps other splits and collapse away.

extension Machine {
    /// Splits the folio into single pages. False when somebody else uses it, when it cannot be found by its reverse map
    /// any more, or when it is the shared folio of zeros: everything is as before then, but that leaves of 2 MiB may
    /// have become single entries.
    ///
    /// The folio is locked and the caller has one reference. On success both belong to the page `kept`, the head by
    /// default; the other pages are unlocked, and those that nothing maps are freed.
    ///
    /// Invariant: INV-AS-14 the bytes of each page are the same before and after, also where the shared zero page takes
    /// the place of a page of zeros.
    package func splitFolio(_ head: FrameNumber, keeping kept: FrameNumber? = nil) -> Bool {
        let kept = kept ?? head
        let count = frames.pageCount(ofHead: head)
        precondition(frames.isLocked(head) && count > 1, "only a locked large folio can be split")
        guard !frames.isZeroFrame(head), hasReverseMap(head), isFullyExplained(head, callers: 1) else { return false }
        let isUnmapped =
            frames.mapping(ofHead: head).isAnonymous
            ? installMigrationEntries(head, splittingLeaves: true) : unmapForReclaim(head)
        let cached = cacheReferences(ofHead: head)
        guard isUnmapped, frames.freeze(head, expected: 1 + cached) else {
            removeMigrationEntries(from: head, to: head)
            return false
        }
        frames.splitRecords(head, count: count, cacheReferences: cached / count)
        removeMigrationEntries(from: head, to: head, count: count, mappingZeroPages: profile.splitMapsZeroPages)
        for i in 0..<count where head + i != kept {
            frames.unlockFolio(head + i)
            releaseUnmapped(head + i)
        }
        return true
    }

    /// References that the swap cache or the page cache holds: one a page.
    func cacheReferences(ofHead head: FrameNumber) -> Int {
        let isCached =
            frames.isInSwapCache(head)
            || (frames.mapping(ofHead: head).isFile && !frames.hasFlags(head, FrameFlags.truncated))
        return isCached ? frames.pageCount(ofHead: head) : 0
    }

    /// Whether each reference of the folio is one of `callers`, of a cache, or of an entry that can be taken away.
    ///
    /// Kernel: can_split_folio (6.12). There a page that a device has exclusively is no mapping, so its reference
    /// stands in the way.
    func isFullyExplained(_ head: FrameNumber, callers: Int) -> Bool {
        guard frames.mappingCount(head) == frames.refCount(head) - cacheReferences(ofHead: head) - callers else {
            return false
        }
        return !profile.exclusiveConvertsFolio || !isHeldByDevice(head)
    }

    private func hasReverseMap(_ head: FrameNumber) -> Bool {
        let mapping = frames.mapping(ofHead: head)
        if mapping.isAnonymous { return anonVMAs.find(mapping.id) != nil }
        return mapping.isFile && !frames.hasFlags(head, FrameFlags.truncated)
    }

    /// Whether some entry of the folio is a device-exclusive one.
    private func isHeldByDevice(_ head: FrameNumber) -> Bool {
        // A leaf of 2 MiB is never exclusive.
        guard frames.mappingCount(head) > frames.entireMappingCount(head) else { return false }
        var isHeld = false
        let count = frames.pageCount(ofHead: head)
        walkReverseMap(head) { vma, pages, _ in
            isHeld = vma.space.hasExclusiveEntry(pages, naming: head, count: count)
            return !isHeld
        }
        return isHeld
    }
}

extension AddressSpace {
    /// A page that was copied on write lies where the folio's did, and is none of it.
    fileprivate func hasExclusiveEntry(_ pages: PageRange, naming head: FrameNumber, count: Int) -> Bool {
        var cursor = PageTableCursor(tables, pages)
        while let step = cursor.advance() {
            guard step.kind == .pteTable else { continue }
            for i in 0..<step.pages.pageCount {
                guard let leaf = tables.read(step.entry + i).softLeaf, leaf.kind == .deviceExclusive else { continue }
                if leaf.frame >= head, leaf.frame < head + count { return true }
            }
        }
        return false
    }
}

extension FrameTable {
    /// Makes each page of a frozen folio a folio of its own: locked, with one reference and those of the cache.
    func splitRecords(_ head: FrameNumber, count: Int, cacheReferences: Int) {
        let mapping = mapping(ofHead: head)
        let index = index(ofHead: head)
        let inherited = flags(head) & FrameFlags.inheritedBySplit
        for i in stride(from: count - 1, to: 0, by: -1) {
            let page = head + i
            setMapping(page, mapping, index: index + UInt64(i))
            record(page).pointee.geometry.store(0, ordering: .relaxed)
            let own = flags(page) & FrameFlags.poisoned
            let poison = own == 0 ? 0 : FrameFlags.hasPoison
            // Flags before the count: whoever gets a reference finds a folio that is complete.
            record(page).pointee.flags.store(inherited | own | poison, ordering: .releasing)
            let isFirst = tryLockFolio(page)
            precondition(isFirst, "the tail of a folio was locked")
            unfreeze(page, count: 1 + cacheReferences)
        }
        record(head).pointee.geometry.store(0, ordering: .relaxed)
        // A mark is left only on a page that nothing maps; the others carry theirs in their migration entries.
        clearFlags(head, FrameFlags.anonExclusive | FrameFlags.hasPoison | FrameFlags.wasPartlyMapped)
        if hasFlags(head, FrameFlags.poisoned) { setFlags(head, FrameFlags.hasPoison) }
        unfreeze(head, count: 1 + cacheReferences)
    }
}
