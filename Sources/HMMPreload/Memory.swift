import CLive
import HMM
import HMMLive

// Changes of the program's memory. Each call of the program is made by the address space, with what it means for the
// pages that devices have.

private func range(_ page: UInt64, _ count: UInt64) -> PageRange { PageNumber(page)..<PageNumber(page &+ count) }

@_cdecl("hmm_preload_file_from")
func fileFrom(_ number: Int32) -> Int32 { clive_file_from(number) }

@_cdecl("hmm_preload_unmap")
func unmapMemory(_ page: UInt64, _ count: UInt64) -> Int32 { TestDriver.running.space.unmap(range(page, count)) }

@_cdecl("hmm_preload_protect")
func protectMemory(_ page: UInt64, _ count: UInt64, _ protection: Int32) -> Int32 {
    TestDriver.running.space.protect(range(page, count), protection)
}

@_cdecl("hmm_preload_advise")
func adviseMemory(_ page: UInt64, _ count: UInt64, _ advice: Int32) -> Int32 {
    TestDriver.running.space.advise(range(page, count), advice)
}

@_cdecl("hmm_preload_remap")
func remapMemory(
    _ page: UInt64, _ count: UInt64, _ newCount: UInt64, _ flags: Int32, _ target: UInt64,
    _ moved: UnsafeMutablePointer<UInt64>
) -> Int32 {
    let answer = TestDriver.running.space.remap(
        range(page, count), newPageCount: Int(newCount), flags: flags, to: target == 0 ? nil : PageNumber(target))
    switch answer {
    case .moved(let page):
        moved.pointee = page.raw
        return 0
    case .failed(let number): return number
    }
}

@_cdecl("hmm_preload_map_over")
func mapOverMemory(
    _ page: UInt64, _ count: UInt64, _ call: @convention(c) (UnsafeMutableRawPointer?) -> Int32,
    _ context: UnsafeMutableRawPointer?
) {
    TestDriver.running.space.mapOver(range(page, count)) { call(context) != 0 }
}

/// Before a system call gets the memory. Most of it is at home, and nothing has to be done.
@_cdecl("hmm_preload_bring")
func bringMemory(_ page: UInt64, _ count: UInt64, _ write: Int32) {
    let pages = range(page, count)
    var first = pages.lowerBound
    while first < pages.upperBound {
        guard clive_segment(first.raw) >= 0 else {
            first = first.advanced(by: 1).alignedUp(order: segmentOrder)
            continue
        }
        guard clive_registered(first.raw) >= 0 else {
            first = first.advanced(by: 1)
            continue
        }
        let limit = min(first.advanced(by: longestRun), pages.upperBound)
        var end = first.advanced(by: 1)
        while end < limit, clive_registered(end.raw) >= 0 { end = end.advanced(by: 1) }
        bring(first..<end, write: write != 0)
        first = end
    }
}

private let longestRun = 256

private func bring(_ pages: PageRange, write: Bool) {
    let needed = UInt8(CLIVE_PRESENT), hindering = write ? UInt8(CLIVE_WP) : 0
    let isThere = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: longestRun) { seen in
        guard clive_look_quickly(pages.lowerBound.raw, pages.pageCount, seen.baseAddress!) == 0 else { return false }
        return seen[..<pages.pageCount].allSatisfy { $0 & (needed | hindering) == needed }
    }
    // MADV_POPULATE_WRITE and MADV_POPULATE_READ. Where that fails, the call will say what is wrong.
    if !isThere { _ = TestDriver.running.space.advise(pages, write ? 23 : 22) }
}

/// The address space may know pages there that were unmapped without us: by the C library itself, for instance.
@_cdecl("hmm_preload_mapped")
func noteNewMemory(_ page: UInt64, _ count: UInt64) {
    let pages = range(page, count)
    var first = pages.lowerBound
    while first < pages.upperBound {
        // Of a part that no device ever had a page of, nothing is known; there can be terabytes of it.
        let endOfSegment = first.advanced(by: 1).alignedUp(order: segmentOrder)
        let part = first..<min(endOfSegment, pages.upperBound)
        if clive_segment(first.raw) >= 0, part.contains(where: { isRemembered($0) }) {
            TestDriver.running.space.mapOver(part) { true }
        }
        first = part.upperBound
    }
}

private let segmentOrder = CLIVE_PAGES_OF_SEGMENT.trailingZeroBitCount

private func isRemembered(_ page: PageNumber) -> Bool {
    guard let word = clive_word(page.raw) else { return false }
    return clive_load(word) != 0
}
