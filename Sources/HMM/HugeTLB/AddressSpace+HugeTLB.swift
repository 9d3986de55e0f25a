extension AddressSpace {
    func hugetlbFault(_ fault: Fault) -> FaultOutcome { .busError }
    func zapHugetlb(_ vma: VMA, _ pages: PageRange) {}
    func hugetlbBacking(_ pages: PageRange, shared: Bool) throws(HMMError) -> (FileMapping?, UInt64) {
        throw HMMError(.notSupportedYet)
    }
    func reserveHugetlb(_ vma: VMA) throws(HMMError) { throw HMMError(.notSupportedYet) }
    func releaseHugetlbReservation(_ vma: VMA) {}
    func moveHugetlbReservation(from vma: VMA, to new: VMA, isMoved: Bool) {}
    func hugetlbMayCut(_ vma: VMA, _ pages: PageRange) -> Bool { true }
    func protectHugetlb(_ vma: VMA, _ pages: PageRange) {}
    func forkHugetlb(_ vma: VMA, _ copy: VMA) throws(HMMError) { throw HMMError(.notSupportedYet) }
    func removeHugetlb(_ file: FileMapping, _ indices: Range<Int>) {}
}
