import HMM
import HMMExplorer

extension Exhibit {
    static let countAtTable = Exhibit(
        "map-count-at-table",
        source: "hugetlb high-granularity mapping v1 21/46, the thread of Y+PKwvLT8+wQ6LPA@x1n",
        story: """
            A huge page that is mapped in pieces is counted as mapped once, by the entry that leads to the table of \
            pieces. Truncation clears the pieces, but may not free the table, because the lock that keeps walkers out \
            is not held there. The page is then mapped nowhere and has a map count, and truncation takes it for a \
            page that somebody still maps. Mended: counted at the leaves.
            """,
        kind: .invariant, isExhaustive: true
    ) { scene, version in
        let pages = Place.pages(1 << Geometry.pmdOrder)
        let frames = scene.machine.frames
        let space = try scene.machine.makeAddressSpace()
        // The mapping only provides a page of the pool; it is the mapping in pieces that is looked at.
        try space.map(pages, protection: .readWrite, kind: .hugetlb(shared: true))
        space.lockForReading()
        let head = try space.reference(pages.lowerBound, .write)
        space.unlockForReading()
        let mapping = PieceMapping(of: head, in: frames, counting: version == .asItWas ? .atTable : .atLeaves)
        scene.thread("fault") { mapping.map(3) }
        scene.thread("truncate") { mapping.unmapPieces() }
        scene.join()
        let counted = mapping.countedMappings
        if counted != mapping.mappedPieces {
            scene.fail("mapped in \(mapping.mappedPieces) pieces, counted \(counted)", kind: .invariant)
        }
        mapping.unmapPieces()
        mapping.freeTable()
        space.release(head, .write)
        space.exit()
    }
}
