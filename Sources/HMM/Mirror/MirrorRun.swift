/// The granularity of every call of a mirror: neighbouring pages with neighbouring frames, equal order, rights and
/// location. A run never crosses the border of a VMA or of the interval that validated it.
public struct MirrorRun: Hashable, Sendable {
    public var pages: PageRange
    /// The frame of the first page; the others follow with stride 1.
    public var firstFrame: FrameNumber
    public var isWritable: Bool
    /// The pages are exclusive to this device and mapped for atomic operations; 4 KiB entries only.
    public var isAtomic: Bool
    /// The CPU (or the device's own memory) maps 2^order pages with one leaf here.
    public var order: UInt8
    public var location: MirrorLocation

    public init(
        pages: PageRange, firstFrame: FrameNumber, isWritable: Bool, order: Int = 0,
        location: MirrorLocation = .system, isAtomic: Bool = false
    ) {
        self.pages = pages
        self.firstFrame = firstFrame
        self.isWritable = isWritable
        self.isAtomic = isAtomic
        self.order = UInt8(order)
        self.location = location
    }

    /// A run as an entry stands for it, cut out of a leaf.
    init(pages: PageRange, entry: MirrorEntry, firstFrame: FrameNumber) {
        self.init(
            pages: pages, firstFrame: firstFrame, isWritable: entry.isWritable, order: entry.order,
            location: entry.location, isAtomic: entry.isAtomic)
    }

    /// The frame of a page of the run.
    public func frame(at page: PageNumber) -> FrameNumber {
        firstFrame + pages.lowerBound.distance(to: page)
    }

    /// The entry of a page, as a leaf of `level`.
    func entry(at page: PageNumber, level: Int) -> MirrorEntry {
        MirrorEntry(
            frame: frame(at: page), isWritable: isWritable, isAtomic: isAtomic, location: location, level: level)
    }

    /// The part of the run in a range.
    public func clipped(to range: PageRange) -> MirrorRun? {
        guard let common = pages.intersection(range) else { return nil }
        var part = self
        part.pages = common
        part.firstFrame = frame(at: common.lowerBound)
        return part
    }

    /// Takes the run that follows into this one, if both together are one run.
    mutating func absorb(_ next: MirrorRun) -> Bool {
        guard next.pages.lowerBound == pages.upperBound, next.firstFrame == firstFrame + pages.pageCount,
            next.isWritable == isWritable, next.isAtomic == isAtomic, next.order == order,
            next.location == location
        else { return false }
        pages = pages.lowerBound..<next.pages.upperBound
        return true
    }
}

/// Splits what a range fault found into maximal runs.
///
/// The caller appends page after page or leaf after leaf in ascending order, and calls `breakRun()` at the border of a
/// VMA; pages that it leaves out end a run by themselves.
public struct MirrorRunBuilder: Sendable {
    public private(set) var runs: [MirrorRun] = []
    private var isBroken = true

    public init() {}

    /// Adds pages behind everything added so far.
    public mutating func append(_ next: MirrorRun) {
        precondition(runs.last.map { $0.pages.upperBound <= next.pages.lowerBound } ?? true, "runs must ascend")
        guard !next.pages.isEmpty else { return }
        if isBroken || !runs[runs.count - 1].absorb(next) { runs.append(next) }
        isBroken = false
    }

    /// Whatever comes next begins a run of its own.
    public mutating func breakRun() { isBroken = true }
}
