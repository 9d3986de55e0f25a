// A range fault talks with its caller through one 64-bit word for each page: a request on the way in, a result on the
// way out. The two are different types over the same word, because half of their bits mean different things.
//
// ```
//   63    62    61   60      56 55            48 47                  40 39                           0
// ┌─────┬─────┬─────┬──────────┬────────────────┬──────────────────────┬──────────────────────────────┐
// │valid│write│error│  order   │ driver's marks │          0           │            frame             │ result
// ├─────┼─────┼─────┴──────────┼────────────────┼──────────────────────┴──────────────────────────────┤
// │fault│write│       0        │ driver's marks │                          0                          │ request
// └─────┴─────┴────────────────┴────────────────┴─────────────────────────────────────────────────────┘
// ```
// Kernel: enum hmm_pfn_flags (include/linux/hmm.h, 6.12); the driver's marks are of later kernels.

/// What a caller wants of one page.
public struct HMMPageRequest: OptionSet, Hashable, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// The page shall be present: whatever is in the way is faulted in.
    public static let fault = HMMPageRequest(rawValue: HMMPageWord.valid)
    /// The page shall be writable. Asks nothing without `fault`.
    public static let write = HMMPageRequest(rawValue: HMMPageWord.write)

    /// The request that an access makes. An atomic access asks for a writable page; exclusivity is another matter.
    public init(for access: AccessKind) { self = access == .read ? .fault : [.fault, .write] }
}

/// What a range fault found at one page.
///
/// Invariant: INV-RF-1: a valid result names the frame that the CPU's entry had when it was read, with no more rights.
public struct HMMPageResult: Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// A frame is there: an ordinary page, or one in the caller's own device-private memory.
    public var isValid: Bool { rawValue & HMMPageWord.valid != 0 }
    /// The frame may be written through. Valid without this can be a zero page, a page shared for copy-on-write, or the
    /// caller's own private page with a read entry, which a range fault never upgrades.
    public var isWritable: Bool { rawValue & HMMPageWord.write != 0 }
    /// As things stand the page will never be valid: nothing is mapped, not readable, or no memory behind it.
    public var isError: Bool { rawValue & HMMPageWord.error != 0 }
    /// The frame, if the result is valid.
    public var frame: FrameNumber { FrameNumber(truncating: rawValue & HMMPageWord.frameMask) }
    /// The CPU maps 2^order pages with one entry here.
    ///
    /// Invariant: INV-RF-4: the same in every page of the leaf, whose frames are contiguous.
    public var order: Int { Int((rawValue & HMMPageWord.orderMask) >> HMMPageWord.orderShift) }

    public var description: String {
        if isError { return "error" }
        guard isValid else { return "nothing" }
        return "\(frame)\(isWritable ? " writable" : "")\(order > 0 ? " order \(order)" : "")"
    }
}

/// Eight bits of each word that belong to the driver: a range fault keeps them, whatever it writes around them.
///
/// Invariant: INV-RF-6: the same before and after, on success, restart and error.
public struct HMMPageMarks: OptionSet, Hashable, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// The page is mapped for DMA.
    public static let dmaMapped = HMMPageMarks(rawValue: 1 << 55)
    /// The page is reached peer to peer.
    public static let peerToPeer = HMMPageMarks(rawValue: 1 << 54)
    /// Free for any use.
    public static let user0 = HMMPageMarks(rawValue: 1 << 48)
    public static let user1 = HMMPageMarks(rawValue: 1 << 49)
}

/// The bits of the word.
package enum HMMPageWord {
    package static let valid: UInt64 = 1 << 63
    package static let write: UInt64 = 1 << 62
    package static let error: UInt64 = 1 << 61
    package static let orderShift: UInt64 = 56
    package static let orderMask: UInt64 = 0b11111 << 56
    package static let marksMask: UInt64 = 0xff << 48
    package static let frameMask: UInt64 = (1 << 40) - 1
    package static let requestMask: UInt64 = valid | write

    package static func order(_ order: Int) -> UInt64 { UInt64(order) << orderShift }
}
