import HMM

/// What the language allows. Each limit is checked with a message of its own.
package enum Limits {
    /// 4 GiB: more than the machine has, little enough that results stay readable.
    package static let regionPages = 1 << 20
    /// A page's words carry the seed from bit 40 on. 0 is left out: it could not be told from untouched memory.
    package static let seeds: ClosedRange<UInt32> = 1...(1 << 24) - 1
    /// The smallest and the largest memory of a declared device.
    package static let deviceMemoryBytes: ClosedRange<UInt64> = 2 << 20...64 << 30
    package static let devices = 16
}

/// Where regions lie: 1 GiB apart, from 0x1000000000.
package enum Layout {
    package static let firstPage = PageNumber(0x10_0000_0000 >> Geometry.pageShift)
    package static let slotPages = 1 << 18
    /// The user half of the address space ends at 2^47.
    package static let slotCount = ((1 << 35) - Int(firstPage.raw)) / slotPages

    /// The slots that a region takes. At least one page behind it stays unmapped.
    package static func slots(forPages pages: Int) -> Int { pages / slotPages + 1 }

    package static func start(ofSlot slot: Int) -> PageNumber { firstPage.advanced(by: slot * slotPages) }
}
