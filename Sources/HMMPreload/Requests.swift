import CPreload
import HMM
import HMMLive

// The requests of the test driver. Their arguments were checked, and the program's data copied, in requests.c.

@_cdecl("hmm_preload_request")
func serve(
    _ handle: UnsafeMutableRawPointer, _ number: UInt32, _ page: UInt64, _ count: UInt64,
    _ bounce: UnsafeMutableRawPointer?, _ pages: UnsafeMutablePointer<UInt64>, _ faults: UnsafeMutablePointer<UInt64>
) -> Int32 {
    let first = PageNumber(page)
    // The number of pages is that of a range that ends within 64 bits.
    let request = Request(
        mirror: OpenMirror.at(handle).mirror, range: first..<first.advanced(by: Int(count)), bounce: bounce)
    return errno(of: { () throws(HMMError) in
        let answer = try request.serve(cpreload_request(rawValue: number))
        pages.pointee = UInt64(answer.pages)
        faults.pointee = UInt64(answer.faults)
    })
}

private struct Request {
    let mirror: DmirrorMirror
    let range: PageRange
    let bounce: UnsafeMutableRawPointer?

    private var words: UnsafeMutableBufferPointer<UInt64> {
        let count = range.pageCount * Geometry.wordsPerPage
        return UnsafeMutableBufferPointer(start: bounce!.assumingMemoryBound(to: UInt64.self), count: count)
    }

    func serve(_ request: cpreload_request) throws(HMMError) -> DmirrorMirror.Counts {
        switch request {
        case CPRELOAD_READ:
            try requireAddresses()
            return try mirror.read(range, into: words)
        case CPRELOAD_WRITE:
            try requireAddresses()
            return try mirror.write(range, from: UnsafeBufferPointer(words))
        case CPRELOAD_MIGRATE: return (try mirror.migrate(range, into: words).pages, 0)
        case CPRELOAD_EVICT: return (try mirror.evict(range), 0)
        case CPRELOAD_SNAPSHOT:
            let bytes = try mirror.snapshot(range)
            bounce!.copyMemory(from: bytes, byteCount: bytes.count)
            return (bytes.count, 0)
        case CPRELOAD_EXCLUSIVE: return (try mirror.exclusive(range, into: words), 0)
        case CPRELOAD_CHECK_EXCLUSIVE: try mirror.checkExclusive(range)
        case CPRELOAD_RELEASE: try mirror.device.release()
        default: throw HMMError(.invalidArgument, "no such request")
        }
        return (0, 0)
    }

    /// Nothing is mapped beyond the address space: an access there is a bad address, not a bad request.
    private func requireAddresses() throws(HMMError) {
        guard range.upperBound <= Geometry.endPage else { throw HMMError(.badAddress, "beyond the address space") }
    }
}

/// What a long-term pin does to pages in memory of a device that the CPU can address: they leave it.
///
/// Kernel: mm/gup.c migrate_longterm_unpinnable_folios (6.12).
@_cdecl("hmm_preload_leave_coherent")
func leaveCoherentMemory(_ page: UInt64, _ count: UInt64) -> Int32 {
    let pages = PageNumber(page)..<PageNumber(page &+ count)
    return errno(of: { () throws(HMMError) in
        for device in TestDriver.running.devices.suffix(2) {
            // Any mirror of the device will do; without one, no page is in its memory.
            if let mirror = device.openMirrors.first { _ = try mirror.evict(pages) }
        }
    })
}
