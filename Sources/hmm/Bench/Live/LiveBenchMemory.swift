import CBench
import CLive
import Glibc
import HMM
import HMMLive

/// Memory of this process that rows of `--live` work on, with every page's number written into it.
struct LiveBenchMemory {
    let space: LiveSpace
    let pages: PageRange
    private let whole: cbench_mapping

    /// - Parameter faults: where its page faults are answered; nil: as it comes from the kernel, not adopted.
    init(_ count: Int, huge: Bool = false, faults: LiveSpace.FaultPath?) throws {
        space = try LiveSpace.start()
        var region = cbench_region()
        let status = cbench_region_make(&region, count, huge)
        guard status == 0, let base = region.base else {
            throw BenchFailure("no memory: " + String(cString: strerror(Int32(-status))))
        }
        whole = region.whole
        let first = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: base))))
        pages = first..<first.advanced(by: count)
        if let faults { try space.adopt(pages, faults: faults) }
    }

    /// Devices have nothing of it any more.
    func finish() throws {
        let error = space.unmap(pages)
        munmap(whole.base, whole.bytes)
        guard error == 0 else { throw BenchFailure("munmap: " + String(cString: strerror(error))) }
    }

    /// Reads the first word of every page, as ordinary code does.
    func sum() -> UInt64 {
        var sum: UInt64 = 0
        let start = UnsafeRawPointer(bitPattern: UInt(pages.lowerBound.address.raw))!
        for index in 0..<pages.pageCount {
            sum &+= (start + index << 12).assumingMemoryBound(to: UInt64.self).pointee
        }
        return sum
    }

    /// What `sum` must answer.
    var writtenSum: UInt64 { UInt64(pages.pageCount) * UInt64(pages.pageCount - 1) / 2 }
}

/// The plain C side of a row.
func withLiveReference<Result>(
    pages: Int, huge: Bool = false, handlerThread: Bool = false, _ body: (inout cbench_live) throws -> Result
) throws -> Result {
    var live = cbench_live()
    let status = cbench_live_make(&live, pages, huge, handlerThread)
    guard status == 0 else { throw BenchFailure("the C side: " + String(cString: strerror(Int32(-status)))) }
    defer { cbench_live_free(&live) }
    return try body(&live)
}
