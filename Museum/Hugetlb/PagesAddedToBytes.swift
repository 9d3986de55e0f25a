import HMM
import HMMExplorer

extension Exhibit {
    static let pagesAddedToBytes = Exhibit(
        "pages-added-to-bytes",
        source: """
            hugetlb high-granularity mapping, follow_hugetlb_page: v1 19/46 (Y8BLKaKy9CUCy/vy@x1n), and the RFC v2 \
            18/47, in the review of 2022-12-15 that did not notice it
            """,
        story: """
            Pages that nobody wants to see are stepped over a huge page at a time. The series made the step \
            `vaddr += pages_per_hpte`, which adds 512 pages to a byte address: half a kilobyte. The count of pages \
            runs out within the first huge page, and the others are reported as populated without having been \
            touched. No second thread is needed. Mended: the core's populate; pages and bytes are different types.
            """,
        kind: .assertion, isExhaustive: true
    ) { scene, version in
        let pages = Place.pages(2 << Geometry.pmdOrder)
        let space = try scene.machine.makeAddressSpace()
        try space.map(pages, protection: .readWrite, kind: .hugetlb())
        scene.thread("populate") {
            switch version {
            case .asItWas: try follow(pages, of: space)
            case .mended: try space.advise(pages, .populateWrite)
            }
        }
        scene.join()
        for first in stride(from: pages.lowerBound, to: pages.upperBound, by: 1 << Geometry.pmdOrder) {
            scene.check(space.mappedFrame(first) != nil, "the huge page at \(first) was populated, and is not mapped")
        }
        space.exit()
    }

    /// follow_hugetlb_page for a caller that wants no pages, only that they are there.
    private static func follow(_ pages: PageRange, of space: AddressSpace) throws(HMMError) {
        space.lockForReading()
        defer { space.unlockForReading() }
        var address = pages.lowerBound.address.raw
        var remainder = UInt64(pages.pageCount)
        while address < pages.upperBound.address.raw, remainder > 0 {
            let page = PageNumber(containing: VirtualAddress(address))
            if space.mappedFrame(page) == nil { space.release(try space.reference(page, .write), .write) }
            let pagesPerEntry: UInt64 = 1 << UInt64(Geometry.pmdOrder)
            // The whole of the huge page at once, when it is entered at its first page.
            let step = page.isAligned(order: Geometry.pmdOrder) && remainder >= pagesPerEntry ? pagesPerEntry : 1
            address += step
            remainder -= step
        }
    }
}
