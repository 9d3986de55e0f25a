import HMM
import HMMExplorer

extension Exhibit {
    static let referenceForEachPiece = Exhibit(
        "reference-for-each-piece",
        source: "hugetlb high-granularity mapping v2 35/46",
        story: """
            Each mapping of 4 KiB takes a reference of the huge page, 262,144 of them for a page of 1 GiB. The count \
            has 32 bits: the 16,384th mapper brings it round to where it began, and the next one that unmaps a piece \
            drops the last reference of a page that all of them use. Mended: a mapper is refused when the count is \
            about to pass the middle, as try_get_folio does.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        let page = CountedPage(isChecked: version == .mended)
        for _ in 1..<16_384 { page.mapAllPieces() }
        scene.thread("last mapper") { page.mapAllPieces() }
        scene.thread("unmapper") {
            if page.unmapPiece() {
                scene.fail("freed, and mapped in \(page.mappedPieces) pieces", kind: .useAfterFree)
            }
        }
        scene.join()
    }
}

/// The reference count of a folio of 1 GiB, as wide as a kernel's, and the mappings that it counts.
private final class CountedPage: Sendable {
    private static let pieces = 1 << Geometry.pudOrder
    private let isChecked: Bool
    /// The page-table lock: both counts are changed under it.
    private let lock = FairMutex(.pte)
    /// The first one is that of the page cache.
    private let references = DriverWord(1)
    private let mapped = DriverWord()

    init(isChecked: Bool) { self.isChecked = isChecked }

    var mappedPieces: Int { mapped.now }

    /// One process maps the page in pieces, unless it is refused.
    func mapAllPieces() {
        lock.withLock {
            let count = Int32(truncatingIfNeeded: references.now)
            if isChecked, count < 0 || count > Int32.max - Int32(Self.pieces) { return }
            references.now = Int(count &+ Int32(Self.pieces))
            mapped.now += Self.pieces
        }
    }

    /// A process unmaps one piece of what it has mapped. True if that dropped the last reference.
    func unmapPiece() -> Bool {
        lock.withLock {
            mapped.now -= 1
            let count = Int32(truncatingIfNeeded: references.now) &- 1
            references.now = Int(count)
            return count == 0
        }
    }
}
