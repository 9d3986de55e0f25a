import Synchronization

/// What a reference to a page is for.
package struct PageReferenceMode: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// The page will be written.
    package static let write = PageReferenceMode(rawValue: 1)
    /// The page will be used by DMA for long: it stays mapped where it is, and fork copies it.
    package static let pin = PageReferenceMode(rawValue: 2)
    /// A huge leaf is split into single entries first; the folio stays whole.
    package static let splitHuge = PageReferenceMode(rawValue: 4)
}

// get_user_pages, pin_user_pages.
//
// Kernel: mm/gup.c follow_page_pte, faultin_page, try_grab_folio (6.12). A pin is counted apart from references, for
// folios of every size, so "may be pinned" is exact.

extension AddressSpace {
    /// A reference to the page, which is faulted in as an access would. The mmap lock is held.
    ///
    /// - Throws: `.badAddress` when nothing is mapped or not with this right, `.notSupported` when a hugetlb page would
    ///   have to be split, `.poisoned`, `.outOfMemory`.
    package func reference(_ page: PageNumber, _ mode: PageReferenceMode) throws(HMMError) -> FrameNumber {
        while true {
            guard let vma = vmas.find(page) else { throw HMMError(.badAddress, "nothing is mapped there") }
            if mode.contains(.splitHuge) {
                if vma.isHugetlb { throw HMMError(.notSupported, "a hugetlb page cannot be split") }
                // Who may not write leaves a huge page whole: the right is looked at first.
                // Kernel: mm/gup.c check_vma_flags, before follow_page_mask (6.12).
                if mode.contains(.write), !vma.isWritable {
                    throw HMMError(.badAddress, "the page cannot be had with this right")
                }
                if let pmd = tables.entry(page, .pmd), tables.read(pmd).isHugeLeaf {
                    splitHugeLeaf(around: page, in: vma, always: true)
                    // A leaf of a file is gone altogether; with a table there the fault maps a single page.
                    _ = tables.entry(page, making: .pte)
                }
            }
            if let frame = grab(page, mode) { return frame }
            switch fault(Fault(vma: vma, page: page, write: mode.contains(.write), holdsMMapLock: true)) {
            case .done: continue
            case .outOfMemory: throw HMMError(.outOfMemory, "no memory to fault the page in")
            case .busError where leaf(page)?.0.softLeaf?.kind == .poison:
                throw HMMError(.poisoned, "the page has failed")
            default: throw HMMError(.badAddress, "the page cannot be had with this right")
            }
        }
    }

    /// Gives back what `reference` took.
    package func release(_ frame: FrameNumber, _ mode: PageReferenceMode) {
        if mode.contains(.write) { markDirty(frame) }
        if mode.contains(.pin) {
            frames.unpin(frames.head(of: frame))
        }
        frames.put(frame)
    }

    /// The frame that the entry names, referenced, if the entry permits it.
    private func grab(_ page: PageNumber, _ mode: PageReferenceMode) -> FrameNumber? {
        var level = PageLevel.pud
        while let slot = tables.entry(page, level) {
            if level > .pte, tables.read(slot).isTable {
                level = level.below
                continue
            }
            tables.lock(slot)
            defer { tables.unlock(slot) }
            let entry = tables.read(slot)
            guard entry.isAccessible, level == .pte || entry.isHugeLeaf,
                !mode.contains(.write) || entry.isWritable
            else { return nil }
            let frame = entry.frame + Int(page.raw & ((1 << UInt64(level.order)) - 1))
            frames.get(frame)
            // Who will write says so at once, or the page of a file that was only read could be dropped as clean.
            // Anonymous pages are written to swap in any case. Kernel: mm/gup.c follow_page_pte, FOLL_TOUCH (6.12).
            if mode.contains(.write), !entry.isDirty, !frames.isAnonymous(frame) { markDirty(frame) }
            if mode.contains(.pin), !frames.isZeroFrame(frame) {
                frames.pin(frames.head(of: frame))
            }
            return frame
        }
        return nil
    }
}
