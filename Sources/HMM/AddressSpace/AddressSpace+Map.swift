/// What a new mapping shows.
public enum MappingKind {
    /// Private memory, zero until written. `huge` is the advice about 2 MiB pages: true wants them, false refuses them,
    /// nil gives none.
    case anonymous(huge: Bool? = nil)
    /// Shared memory: private to nobody, kept while somebody maps it.
    case sharedAnonymous
    /// A private view of a file, from its page `offset` on: written pages are copies.
    case privateFile(FileMapping, offset: Int = 0)
    case sharedFile(FileMapping, offset: Int = 0)
    /// Pages of 2 MiB from the reserved pool.
    case hugetlb(shared: Bool = false)
}

// mmap and munmap.
//
// Kernel: mm/mmap.c mmap_region, do_vmi_align_munmap, unmap_region (6.12).

extension AddressSpace {
    /// Maps `pages`, which must be free.
    ///
    /// - Throws: `.invalidArgument` for a range that is empty or lies outside the address space or on another mapping;
    ///   `.outOfMemory` when the hugetlb pool cannot reserve enough.
    public func map(_ pages: PageRange, protection: Protection, kind: MappingKind) throws(HMMError) {
        guard !pages.isEmpty, pages.upperBound <= Geometry.endPage else {
            throw HMMError(.invalidArgument, "the range is empty or lies outside the address space")
        }
        let vma = try makeVMA(pages, protection, kind)
        lockForWriting()
        defer { unlockForWriting() }
        guard isAlive, vmas.overlapping(pages).isEmpty else {
            throw HMMError(.invalidArgument, "something is mapped there already")
        }
        if vma.isHugetlb { try reserveHugetlb(vma) }
        vma.linkFile()
        vmas.insert(vma)
    }

    private func makeVMA(
        _ pages: PageRange, _ protection: Protection, _ kind: MappingKind
    ) throws(HMMError) -> VMA {
        var flags = VMAFlags(protection)
        var file: FileMapping?
        var offset: UInt64 = 0
        switch kind {
        case .anonymous(let huge):
            offset = pages.lowerBound.raw
            if let huge { flags.insert(huge ? .hugePage : .noHugePage) }
        case .sharedAnonymous:
            file = try machine.makeFile(pageCount: pages.pageCount)
            file!.isSharedAnonymous = true
            flags.formUnion([.shared, .mayWrite])
        case .privateFile(let mapped, let start):
            (file, offset) = (mapped, UInt64(start))
        case .sharedFile(let mapped, let start):
            (file, offset) = (mapped, UInt64(start))
            flags.formUnion([.shared, .mayWrite])
        case .hugetlb(let isShared):
            (file, offset) = try hugetlbBacking(pages, shared: isShared)
            flags.insert(.hugetlb)
            if isShared { flags.formUnion([.shared, .mayWrite]) }
        }
        if flags.contains(.write), flags.isDisjoint(with: [.shared, .hugetlb]) { flags.insert(.account) }
        try machine.faultInjector.check(.object)
        return VMA(space: self, pages: pages, flags: flags, file: file, pageOffset: offset)
    }

    /// Unmaps whatever is mapped in `pages`.
    ///
    /// - Throws: `.invalidArgument` for an empty range or one that cuts a hugetlb page; `.outOfMemory` when a mapping
    ///   would have to be split and there is no memory. Nothing is unmapped then; a mapping that was split at the
    ///   start of the range stays so.
    public func unmap(_ pages: PageRange) throws(HMMError) {
        guard !pages.isEmpty, pages.upperBound <= Geometry.endPage else {
            throw HMMError(.invalidArgument, "the range is empty or lies outside the address space")
        }
        lockForWriting()
        defer { unlockForWriting() }
        try unmapLocked(pages)
    }

    /// `unmap` with the mmap lock held for writing.
    func unmapLocked(_ pages: PageRange) throws(HMMError) {
        var doomed = vmas.overlapping(pages)
        guard let first = doomed.first, let last = doomed.last else { return }
        if first.pages.lowerBound < pages.lowerBound {
            _ = try split(first, at: pages.lowerBound, newIsLower: true)
        }
        if last.pages.upperBound > pages.upperBound {
            _ = try split(last, at: pages.upperBound, newIsLower: false)
        }
        doomed = vmas.overlapping(pages)
        unmapAll(doomed, invalidating: pages)
    }

    /// Unmaps whole VMAs, which are neighbours in the order of addresses. Mirrors hear of all of `pages`, where there
    /// may be holes, also at the ends.
    private func unmapAll(_ doomed: ArraySlice<VMA>, invalidating pages: PageRange) {
        guard let first = doomed.first, let last = doomed.last else { return }
        let floor = vmas.previous(before: first)?.pages.upperBound ?? PageNumber(0)
        let ceiling = vmas.next(after: last)?.pages.lowerBound ?? Geometry.endPage
        for vma in doomed {
            markWrite(vma)
            vmas.remove(vma)
        }
        let span = first.pages.lowerBound..<last.pages.upperBound
        let invalidation = beginInvalidation(.unmap, pages)
        for vma in doomed { zap(vma, vma.pages) }
        invalidation.end()
        for vma in doomed { unlinkReverseMaps(vma) }
        // No walker can find these tables any more: no VMA leads to them, and CPUs were flushed by the zap.
        flushTLB()
        tables.freeTables(span, floor: floor, ceiling: ceiling)
    }

    private func unlinkReverseMaps(_ vma: VMA) {
        if vma.isHugetlb { releaseHugetlbReservation(vma) }
        vma.unlinkFile()
        vma.unlinkAnonVMAs(table: machine.anonVMAs)
    }

    /// The last user is gone: one invalidation of everything came before.
    func unmapEverything() {
        let all = vmas.all
        guard let first = all.first, let last = all.last else { return }
        unmapAll(all[...], invalidating: first.pages.lowerBound..<last.pages.upperBound)
    }
}
