import Synchronization

// Mappings of hugetlb pages: making them, cutting them, and what they hold of the pool.
//
// A hugetlb page is mapped by one leaf of 2 MiB, and here by nothing smaller; no table is deposited for a split. The
// file behind a mapping, private or shared, tells which VMAs map the same place; of a private one no page is ever in
// its cache.
//
// Kernel: mm/hugetlb.c hugetlb_reserve_pages, hugetlb_vm_op_close, hugetlb_vm_op_split; fs/hugetlbfs/inode.c (6.12).

/// Pages of 4 KiB in a hugetlb page.
let hugetlbSpan = 1 << Geometry.pmdOrder

extension VMA {
    /// The number of the hugetlb page within its file.
    func hugetlbIndex(of page: PageNumber) -> Int { Int(index(of: page)) / hugetlbSpan }

    var hugetlbIndices: Range<Int> {
        let first = hugetlbIndex(of: pages.lowerBound)
        return first..<first + pages.pageCount / hugetlbSpan
    }

    /// Where the promises for this mapping are kept: with the file if it is shared, nowhere in a child of fork.
    var hugetlbPromises: HugetlbReservations? { isShared ? file!.hugetlbReservations : hugetlbReservations }
}

extension AddressSpace {
    /// The file of a new mapping. Shared or not, nobody else knows it.
    func hugetlbBacking(_ pages: PageRange, shared: Bool) throws(HMMError) -> (FileMapping?, UInt64) {
        guard pages.lowerBound.isAligned(order: Geometry.pmdOrder), pages.pageCount % hugetlbSpan == 0 else {
            throw HMMError(.invalidArgument, "hugetlb memory is mapped in whole, aligned huge pages")
        }
        return (try machine.makeFile(pageCount: pages.pageCount), 0)
    }

    /// Has the pages of a new mapping promised. A private mapping needs them all, even where it is never written: its
    /// rights may change.
    func reserveHugetlb(_ vma: VMA) throws(HMMError) {
        let count = vma.pages.pageCount / hugetlbSpan
        guard let reservations = HugetlbReservations(frames.hugetlb, pageCount: count) else {
            throw HMMError(.outOfMemory, "the hugetlb pool cannot promise so many pages")
        }
        if vma.isShared { vma.file!.hugetlbReservations = reservations } else { vma.hugetlbReservations = reservations }
    }

    /// The VMA is gone, and with it what it was promised and never took. The promises of shared memory go with the
    /// file.
    func releaseHugetlbReservation(_ vma: VMA) {
        vma.hugetlbReservations?.release(vma.hugetlbIndices)
    }

    /// `new` maps what `old` mapped, or was to; one of them is unmapped next, and must not give up the promises that
    /// the other one keeps.
    func moveHugetlbReservation(from old: VMA, to new: VMA) {
        new.hugetlbReservations = old.hugetlbReservations
        new.hasLostHugetlbPage.store(old.hasLostHugetlbPage.load(ordering: .relaxed), ordering: .relaxed)
        new.hugetlbReservations?.claim(new.hugetlbIndices)
    }

    /// Whether the borders of `pages` lie between huge pages, where they cut the VMA.
    func hugetlbMayCut(_ vma: VMA, _ pages: PageRange) -> Bool {
        func cuts(_ page: PageNumber) -> Bool {
            page > vma.pages.lowerBound && page < vma.pages.upperBound && !page.isAligned(order: Geometry.pmdOrder)
        }
        return !cuts(pages.lowerBound) && !cuts(pages.upperBound)
    }
}

/// A page of the pool that was taken for a place, and what the place was promised before.
struct HugetlbAllocation {
    let head: FrameNumber
    fileprivate let before: HugetlbReservations.State?
}

extension AddressSpace {
    /// Takes a page of the pool for one place of the mapping: the promised one, or one that nobody is promised. Nil
    /// when there is none. With `forCopy` the owner leaves the promise alone, which its place has used up already.
    ///
    /// Kernel: alloc_hugetlb_folio (6.12).
    func allocateHugetlb(_ vma: VMA, _ page: Int, forCopy: Bool = false) -> HugetlbAllocation? {
        let promises = vma.hugetlbPromises
        let isReserved = !forCopy && promises?.isReserved(page) == true
        guard let head = frames.allocateHugetlbFolio(reserved: isReserved) else { return nil }
        return HugetlbAllocation(head: head, before: promises?.consume(page))
    }

    /// Gives back a page that was not used after all.
    ///
    /// Kernel: restore_reserve_on_error (6.12).
    func giveBackHugetlb(_ vma: VMA, _ page: Int, _ allocation: HugetlbAllocation) {
        if let before = allocation.before { vma.hugetlbPromises?.set(page, before) }
        frames.put(allocation.head)
    }

    /// Makes a page of the pool the anonymous page of one place, mapped by one leaf.
    func initializeHugetlbAnonymous(_ vma: VMA, _ head: FrameNumber, at start: PageNumber) {
        frames.clearFlags(head, FrameFlags.restoresReserve)
        frames.setMapping(head, .anonymous(vma.anonVMA!.id), index: vma.index(of: start))
        frames.addEntireMapping(head)
        frames.setFlags(head, FrameFlags.upToDate | FrameFlags.dirty | FrameFlags.anonExclusive)
    }
}
