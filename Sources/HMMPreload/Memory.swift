import CLive
import HMM
import HMMLive

// Changes of the program's memory. Each call of the program is made by the address space, with what it means for the
// pages that devices have.

private func range(_ page: UInt64, _ count: UInt64) -> PageRange { PageNumber(page)..<PageNumber(page &+ count) }

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
