import Synchronization

// Splitting and merging of VMAs.
//
// Which neighbours merge is visible to programs (mremap refuses two VMAs, madvise counts them), so the rules are the
// kernel's, down to which of two VMAs lends its anonymous reverse map.
//
// Kernel: mm/vma.c vma_merge_existing_range, vma_modify, split_vma, dup_anon_vma (6.12).
// The mmap lock is held for writing by every caller.

extension AddressSpace {
    /// Makes `pages`, a part of `vma`, a VMA of its own with `flags`: by merging it into neighbours that have them, or
    /// by splitting. Answers the VMA that now covers `pages`. Flags are set by the caller if it was not merged.
    func modify(_ vma: VMA, _ pages: PageRange, flags: VMAFlags) throws(HMMError) -> VMA {
        if let merged = try merge(vma, pages, flags: flags) { return merged }
        if vma.pages.lowerBound < pages.lowerBound { _ = try split(vma, at: pages.lowerBound, newIsLower: true) }
        if vma.pages.upperBound > pages.upperBound { _ = try split(vma, at: pages.upperBound, newIsLower: false) }
        return vma
    }

    /// Cuts a VMA in two. Answers the new one.
    ///
    /// - Throws: `.invalidArgument` in the middle of a hugetlb page; `.outOfMemory`.
    func split(_ vma: VMA, at page: PageNumber, newIsLower: Bool) throws(HMMError) -> VMA {
        guard !vma.isHugetlb || page.isAligned(order: Geometry.pmdOrder) else {
            throw HMMError(.invalidArgument, "the range cuts a hugetlb page")
        }
        try machine.faultInjector.check(.object)
        markWrite(vma)
        let low = vma.pages.lowerBound..<page
        let high = page..<vma.pages.upperBound
        let highOffset = vma.pageOffset + UInt64(low.pageCount)
        let new = VMA(
            space: self, pages: newIsLower ? low : high, flags: vma.flags, file: vma.file,
            pageOffset: newIsLower ? vma.pageOffset : highOffset)
        new.lockSequence.store(lockSequenceNow, ordering: .releasing)
        new.hugetlbReservations = vma.hugetlbReservations
        new.hasLostHugetlbPage.store(vma.hasLostHugetlbPage.load(ordering: .relaxed), ordering: .relaxed)
        splitHugeLeaf(around: page, in: vma)
        // The source has an object of its own; so does the new one, and the same.
        new.anonVMA = vma.anonVMA
        new.chain = []
        linkClone(new, of: vma)
        adjust([(vma, newIsLower ? high : low, newIsLower ? highOffset : vma.pageOffset)])
        vmas.insert(new)
        new.linkFile()
        return new
    }

    /// Links `new` to the reverse maps of `vma`, with the same object as its own.
    func linkClone(_ new: VMA, of vma: VMA) {
        guard let root = vma.chain.first?.root else { return }
        root.lockWrite()
        for object in vma.chain {
            object.insert(new)
            new.chain.append(object)
        }
        new.anonVMA?.activeCount += 1
        root.unlockWrite()
    }

    /// Moves borders of adjacent VMAs with their reverse maps locked, so that a walker finds each page in exactly one.
    private func adjust(_ changes: [(vma: VMA, pages: PageRange, offset: UInt64)]) {
        let file = changes[0].vma.file
        let root = changes.lazy.compactMap { $0.vma.anonVMA?.root }.first
        file?.mapLock.lockWrite()
        root?.lockWrite()
        // Each takes its place in the order of walkers anew, behind those that begin at the same offset.
        for (vma, _, _) in changes {
            file?.removeLocked(vma)
            for object in vma.chain { object.remove(vma) }
        }
        for change in changes { vmas.adjust(change.vma, to: change.pages, pageOffset: change.offset) }
        for (vma, _, _) in changes {
            file?.insertLocked(vma)
            for object in vma.chain { object.insert(vma) }
        }
        root?.unlockWrite()
        file?.mapLock.unlockWrite()
    }

    // MARK: Merging

    private func merge(_ vma: VMA, _ pages: PageRange, flags: VMAFlags) throws(HMMError) -> VMA? {
        let isLeft = pages.lowerBound == vma.pages.lowerBound
        let isRight = pages.upperBound == vma.pages.upperBound
        // Hugetlb counts as special here (VM_DONTEXPAND).
        guard !flags.contains(.special), !vma.isHugetlb, isLeft || isRight else { return nil }
        let offset = vma.index(of: pages.lowerBound)
        var left = isLeft ? vmas.previous(before: vma) : nil
        if let previous = left, !canMerge(after: previous, pages, flags, vma, offset: offset) { left = nil }
        var right = isRight ? vmas.next(after: vma) : nil
        if let next = right, !canMerge(before: next, pages, flags, vma, offset: offset) { right = nil }
        if let previous = left, let next = right, !Self.areCompatible(previous, next) { right = nil }
        guard left != nil || right != nil else { return nil }
        try machine.faultInjector.check(.object)
        for changed in [vma, left, right] { if let changed { markWrite(changed) } }
        if let previous = left { return mergeLeft(previous, vma, right, pages) }
        return mergeRight(vma, right!, pages)
    }

    private func mergeLeft(_ previous: VMA, _ vma: VMA, _ next: VMA?, _ pages: PageRange) -> VMA {
        adoptAnonVMA(previous, from: next?.anonVMA != nil ? next! : vma)
        let start = previous.pages.lowerBound
        if let next {
            let end = next.pages.upperBound
            replace([vma, next], by: previous, start..<end, offset: previous.pageOffset)
        } else if pages == vma.pages {
            replace([vma], by: previous, start..<pages.upperBound, offset: previous.pageOffset)
        } else {
            splitHugeLeaf(around: pages.upperBound, in: vma)
            adjust([
                (vma, pages.upperBound..<vma.pages.upperBound, vma.index(of: pages.upperBound)),
                (previous, start..<pages.upperBound, previous.pageOffset),
            ])
        }
        return previous
    }

    private func mergeRight(_ vma: VMA, _ next: VMA, _ pages: PageRange) -> VMA {
        adoptAnonVMA(next, from: vma)
        let offset = next.pageOffset - UInt64(pages.pageCount)
        let end = next.pages.upperBound
        if pages == vma.pages {
            replace([vma], by: next, pages.lowerBound..<end, offset: offset)
        } else {
            splitHugeLeaf(around: pages.lowerBound, in: vma)
            adjust([
                (vma, vma.pages.lowerBound..<pages.lowerBound, vma.pageOffset),
                (next, pages.lowerBound..<end, offset),
            ])
        }
        return next
    }

    /// Widens `survivor` over `merged`, which go. The survivor is widened before they leave the reverse maps: a walker
    /// may meet a page twice, which is harmless, but must never miss it.
    private func replace(_ merged: [VMA], by survivor: VMA, _ pages: PageRange, offset: UInt64) {
        for vma in merged { vmas.remove(vma) }
        adjust([(survivor, pages, offset)])
        for vma in merged {
            vma.unlinkFile()
            vma.unlinkAnonVMAs(table: machine.anonVMAs)
        }
    }

    private func adoptAnonVMA(_ target: VMA, from source: VMA) {
        guard let object = source.anonVMA, target.anonVMA == nil else { return }
        target.anonVMA = object
        linkClone(target, of: source)
    }

    private func canMerge(
        after previous: VMA, _ pages: PageRange, _ flags: VMAFlags, _ vma: VMA, offset: UInt64
    ) -> Bool {
        previous.pages.upperBound == pages.lowerBound && previous.flags == flags && previous.file === vma.file
            && Self.isMergeable(vma.anonVMA, previous.anonVMA, previous)
            && previous.pageOffset + UInt64(previous.pages.pageCount) == offset
    }

    private func canMerge(
        before next: VMA, _ pages: PageRange, _ flags: VMAFlags, _ vma: VMA, offset: UInt64
    ) -> Bool {
        next.pages.lowerBound == pages.upperBound && next.flags == flags && next.file === vma.file
            && Self.isMergeable(vma.anonVMA, next.anonVMA, next) && next.pageOffset == offset + UInt64(pages.pageCount)
    }

    /// Two different reverse maps never merge. One and none do, unless the neighbour came from a fork, whose reverse
    /// maps would grow without need.
    private static func isMergeable(_ a: AnonVMA?, _ b: AnonVMA?, _ neighbour: VMA) -> Bool {
        (a == nil || b == nil) && neighbour.chain.count == 1 || a === b
    }

    private static func areCompatible(_ a: VMA, _ b: VMA) -> Bool {
        a.anonVMA == nil || b.anonVMA == nil || a.anonVMA === b.anonVMA
    }
}
