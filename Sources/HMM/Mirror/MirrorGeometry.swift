/// The shape of a mirror's radix tree: how many levels, and what an entry of each level spans.
///
/// Level 0 holds entries of one page; an entry of level L spans 512^L pages. The number of levels follows from the
/// *last* page, inclusively: from an exclusive end it would be one too many at the powers of 512.
struct MirrorGeometry: Sendable, Hashable {
    static let bitsPerLevel = 9
    static let entriesPerDirectory = 512
    static let maximalLevels = 4
    /// Leaves stand at 4 KiB, 2 MiB and 1 GiB.
    static let highestLeafLevel = 2

    let lastPage: PageNumber
    let levels: Int

    init(lastPage: PageNumber) {
        precondition(lastPage < Geometry.endPage, "a mirror cannot reach beyond the user address space")
        self.lastPage = lastPage
        let bits = UInt64.bitWidth - lastPage.raw.leadingZeroBitCount
        levels = max(1, (bits + Self.bitsPerLevel - 1) / Self.bitsPerLevel)
    }

    var rootLevel: Int { levels - 1 }
    var highestLeafLevel: Int { min(Self.highestLeafLevel, rootLevel) }
    var allPages: PageRange { PageNumber(0)..<lastPage.advanced(by: 1) }

    /// Pages that one entry of a level spans.
    static func span(_ level: Int) -> Int { 1 << (bitsPerLevel * level) }

    /// The order of a leaf at this level.
    static func order(_ level: Int) -> Int { bitsPerLevel * level }

    /// Where in its directory of `level` the entry of a page is.
    static func index(_ page: PageNumber, _ level: Int) -> Int {
        Int(truncatingIfNeeded: page.raw >> UInt64(bitsPerLevel * level)) & (entriesPerDirectory - 1)
    }

    /// The first page of the directory of `level` that contains a page.
    static func directoryBase(_ page: PageNumber, _ level: Int) -> PageNumber {
        page.alignedDown(order: bitsPerLevel * (level + 1))
    }

    /// Pages of the entry of `level` that contains a page.
    static func entryPages(_ page: PageNumber, _ level: Int) -> PageRange {
        let base = page.alignedDown(order: order(level))
        return base..<base.advanced(by: span(level))
    }

    /// The highest level at which the rest of a run, from `page` on, may be stored as one leaf.
    ///
    /// Invariant: INV-MT-8: pages and frames aligned, mapped by the CPU with at least this order, and inside the run,
    /// that is, inside what was validated. A larger leaf of the CPU is no excuse to map more than the run.
    func leafLevel(of run: MirrorRun, at page: PageNumber) -> Int {
        let frame = UInt64(run.frame(at: page).raw)
        var level = min(highestLeafLevel, Int(run.order) / Self.bitsPerLevel)
        while level > 0 {
            let order = Self.order(level)
            let isAligned = page.isAligned(order: order) && frame & (1 << UInt64(order) - 1) == 0
            if isAligned && page.distance(to: run.pages.upperBound) >= Self.span(level) { break }
            level -= 1
        }
        return level
    }
}
