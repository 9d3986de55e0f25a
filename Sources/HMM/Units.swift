// The units of the model. Bytes, virtual pages and physical frames are different types; none converts into
// another by itself, because historical bugs of this field are mixes of them (a page count added to a byte
// address, an inclusive bound used as an exclusive one).

/// Sizes of the geometry: 4 KiB pages, four levels of 512 entries, 48-bit addresses.
public enum Geometry {
    public static let pageShift: UInt64 = 12
    /// Bytes of a page.
    public static let pageSizeBytes = 4096
    /// 64-bit words of a page.
    public static let wordsPerPage = 512
    /// Entries of one table.
    public static let entriesPerTable = 512
    /// Order of the folio that a PMD leaf maps: 2 MiB.
    public static let pmdOrder = 9
    /// Order of the folio that a PUD leaf maps: 1 GiB.
    public static let pudOrder = 18
    /// First page number behind the user address space.
    public static let endPage = PageNumber(1 << 36)
}

/// The number of a virtual page: an address divided by 4096.
public struct PageNumber: Hashable, Comparable, Strideable, Sendable, CustomStringConvertible {
    public var raw: UInt64

    @inlinable public init(_ raw: UInt64) { self.raw = raw }
    /// The page that contains `address`.
    @inlinable public init(containing address: VirtualAddress) { raw = address.raw >> Geometry.pageShift }

    @inlinable public var address: VirtualAddress { VirtualAddress(raw << Geometry.pageShift) }
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.raw < b.raw }
    @inlinable public func distance(to other: Self) -> Int { Int(truncatingIfNeeded: other.raw &- raw) }
    @inlinable public func advanced(by n: Int) -> Self { Self(raw &+ UInt64(truncatingIfNeeded: n)) }
    /// The first page of the aligned block of 2^`order` pages that contains this page.
    @inlinable public func alignedDown(order: Int) -> Self { Self((raw >> UInt64(order)) << UInt64(order)) }
    @inlinable public func alignedUp(order: Int) -> Self {
        Self(raw &+ (1 << UInt64(order)) &- 1).alignedDown(order: order)
    }
    @inlinable public func isAligned(order: Int) -> Bool { raw & ((1 << UInt64(order)) &- 1) == 0 }
    public var description: String { "0x" + String(raw << Geometry.pageShift, radix: 16) }
}

/// Half-open ranges of pages, everywhere. Inclusive bounds exist only where an interface outside demands them.
public typealias PageRange = Range<PageNumber>

extension Range where Bound == PageNumber {
    /// The number of pages.
    @inlinable public var pageCount: Int { lowerBound.distance(to: upperBound) }
    /// The common part, or nil when it is empty.
    @inlinable public func intersection(_ other: PageRange) -> PageRange? {
        let low = Swift.max(lowerBound, other.lowerBound)
        let high = Swift.min(upperBound, other.upperBound)
        return low < high ? low..<high : nil
    }
    @inlinable public func contains(_ other: PageRange) -> Bool {
        lowerBound <= other.lowerBound && other.upperBound <= upperBound
    }
}

/// A byte address in an address space.
public struct VirtualAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var raw: UInt64
    @inlinable public init(_ raw: UInt64) { self.raw = raw }
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.raw < b.raw }
    @inlinable public var isPageAligned: Bool { raw & 0xfff == 0 }
    public var description: String { "0x" + String(raw, radix: 16) }
}

/// The number of a physical frame of 4 KiB, of any zone.
public struct FrameNumber: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var raw: UInt32
    @inlinable public init(_ raw: UInt32) { self.raw = raw }
    @inlinable public init(truncating raw: UInt64) { self.raw = UInt32(truncatingIfNeeded: raw) }
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.raw < b.raw }
    @inlinable public static func + (a: Self, n: Int) -> Self { Self(a.raw &+ UInt32(truncatingIfNeeded: n)) }
    @inlinable public static func - (a: Self, b: Self) -> Int { Int(a.raw) - Int(b.raw) }
    /// No frame: frame 0 is never handed out.
    public static let none = FrameNumber(0)

    /// Set in the numbers of *live* frames: pages of the running process, named by where they are mapped.
    package static let liveBit: UInt32 = 1 << 31
    /// Pages of one segment, 1 GiB: a live frame number is the number of a segment and a page in it.
    package static let liveSegmentOrder = 18
    /// Whether this names a page of the running process, which is where its bytes are, instead of a frame of a machine.
    @inlinable public var isLive: Bool { raw >> 31 != 0 }
    public var description: String { "frame \(raw)" }
}

/// What an access wants to do. Ordered by strength.
public enum AccessKind: UInt8, Comparable, Sendable {
    case read, write, atomic
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}
