import HMM
import HMMExplorer

extension Exhibit {
    static let negativeProgress = Exhibit(
        "negative-progress",
        source: "fcvm #961 (crate userfaultfd 0.9)",
        story: """
            UFFDIO_COPY answers in a signed field: bytes copied, or a negative error. The crate hands it on as an \
            unsigned number, so that EAGAIN without progress reads as 2^64 - 11 bytes. A prefill in bulk takes that \
            for more than it asked for, and ends with pages missing. Mended: both meanings are decoded, and EAGAIN \
            tries again.
            """,
        kind: .assertion, isExhaustive: true
    ) { scene, version in
        let space = try scene.machine.makeAddressSpace()
        try space.map(Place.pages(3), protection: .readWrite, kind: .anonymous(huge: false))
        let userfault = Userfault(space)
        let wanted = Place.pages(2)
        scene.thread("prefill") {
            var done: UInt64 = 0
            while done < UInt64(wanted.pageCount * Geometry.pageSizeBytes) {
                let page = wanted.lowerBound.advanced(by: Int(done) / Geometry.pageSizeBytes)
                let copied = try bytesCopied(userfault, page)
                switch version {
                case .asItWas: done = done.addingReportingOverflow(UInt64(bitPattern: copied)).partialValue
                case .mended: if copied > 0 { done += UInt64(copied) } else { SyncThread.yield() }
                }
            }
        }
        scene.thread("balloon") { try userfault.remove(Place.base.advanced(by: 2)) }
        scene.thread("event reader") {
            userfault.poll()
            _ = userfault.next()
        }
        scene.join()
        for page in wanted { scene.check(space.mappedFrame(page) != nil, "\(page) was prefilled, and is missing") }
        space.exit()
    }

    /// The `copy` field of UFFDIO_COPY.
    private static func bytesCopied(_ userfault: Userfault, _ page: PageNumber) throws(HMMError) -> Int64 {
        switch try userfault.copy(7, to: page) {
        case .copied, .exists: Int64(Geometry.pageSizeBytes)
        case .tryAgain: -Int64(HMMError.Code.tryAgain.rawValue)
        }
    }
}
