/// A range of pages that a driver wants to see through the CPU's page tables: what it asks of each page, and what it
/// was told.
///
/// The storage is one word a page and is reused: `retarget` moves the range, so that a driver that works in chunks
/// allocates once.
///
/// The effective request of a page is `(request of the page ∩ requestMask) ∪ defaultRequest`. So a driver that wants
/// the same of all pages sets the default and leaves the mask empty, and one that gathered single faults sets the mask.
///
/// Kernel: struct hmm_range (include/linux/hmm.h, 6.12).
public struct HMMRange: ~Copyable {
    /// Whose sequence tells that a result is stale. It covers `pages`.
    public let interval: IntervalNotifier
    public private(set) var pages: PageRange
    /// The most pages that the range can be moved to.
    public let capacity: Int
    /// From `interval.readBegin()`, of the present round.
    public var sequence: UInt64 = 0
    /// Asked of every page.
    public var defaultRequest: HMMPageRequest = []
    /// The part of the pages' own requests that counts.
    public var requestMask: HMMPageRequest = []
    /// Fault only pages that need it, whatever the machine's profile says: for ranges in which some pages are asked for
    /// and others only looked at.
    public var isPrecise = false
    /// The caller's own device-private memory: pages there are reported by their frames. Those of others are brought
    /// home when they are requested.
    public var ownMemory: DeviceMemory?
    /// One word for each page of `pages`: a request, then a result.
    package let words: UnsafeMutablePointer<UInt64>
    /// Some word may have marks.
    private(set) var hasMarks = false
    /// Counts for summaries: CPU faults made for this range.
    public package(set) var faultCount = 0

    /// - Parameter capacity: room for later ranges; at least as many pages as `pages` has.
    public init(_ interval: IntervalNotifier, _ pages: PageRange, capacity: Int? = nil) {
        self.interval = interval
        self.pages = pages
        self.capacity = max(capacity ?? 0, pages.pageCount)
        words = .allocate(capacity: max(1, self.capacity))
        words.initialize(repeating: 0, count: max(1, self.capacity))
    }

    deinit { words.deallocate() }

    /// Moves the range, with all words cleared.
    public mutating func retarget(_ pages: PageRange) {
        precondition(pages.pageCount <= capacity, "a range was moved to more pages than it has room for")
        self.pages = pages
        hasMarks = false
        words.update(repeating: 0, count: pages.pageCount)
    }

    /// The results of the last range fault, by page index.
    public subscript(index: Int) -> HMMPageResult {
        precondition(index >= 0 && index < pages.pageCount, "no such page in the range")
        return HMMPageResult(rawValue: words[index])
    }

    public subscript(page: PageNumber) -> HMMPageResult { self[pages.lowerBound.distance(to: page)] }

    /// Sets what the driver asks of one page; the marks stay.
    public mutating func setRequest(_ request: HMMPageRequest, at index: Int) {
        precondition(index >= 0 && index < pages.pageCount, "no such page in the range")
        words[index] = words[index] & HMMPageWord.marksMask | request.rawValue & HMMPageWord.requestMask
    }

    /// Clears all requests and results; the marks stay.
    public mutating func clearRequests() {
        for index in 0..<pages.pageCount { words[index] &= HMMPageWord.marksMask }
    }

    public func marks(at index: Int) -> HMMPageMarks {
        precondition(index >= 0 && index < pages.pageCount, "no such page in the range")
        return HMMPageMarks(rawValue: words[index] & HMMPageWord.marksMask)
    }

    public mutating func setMarks(_ marks: HMMPageMarks, at index: Int) {
        precondition(index >= 0 && index < pages.pageCount, "no such page in the range")
        hasMarks = true
        words[index] = words[index] & ~HMMPageWord.marksMask | marks.rawValue & HMMPageWord.marksMask
    }

    /// True if the results may be stale. Under the driver lock.
    public func mustRetry() -> Bool { interval.readRetry(sequence) }

    /// Calls `body` for each maximal run of valid results: contiguous frames, equal rights and order.
    public func forEachValidRun(_ body: (_ run: HMMRun) -> Void) {
        var index = 0
        let count = pages.pageCount
        while index < count {
            let word = words[index] & ~HMMPageWord.marksMask
            guard word & HMMPageWord.valid != 0 else {
                index += 1
                continue
            }
            var end = index + 1
            while end < count, words[end] & ~HMMPageWord.marksMask == word &+ UInt64(end - index) { end += 1 }
            let result = HMMPageResult(rawValue: word)
            let start = pages.lowerBound.advanced(by: index)
            body(
                HMMRun(
                    pages: start..<start.advanced(by: end - index), firstFrame: result.frame,
                    isWritable: result.isWritable, order: result.order))
            index = end
        }
    }
}

/// Neighbouring pages that a range fault found in contiguous frames, with equal rights and order.
public struct HMMRun: Hashable, Sendable {
    public let pages: PageRange
    public let firstFrame: FrameNumber
    public let isWritable: Bool
    public let order: Int
}

/// How a range fault ended, when nothing was wrong.
public enum RangeFaultOutcome: Hashable, Sendable {
    /// Every page has its result.
    case done
    /// An invalidation came in between: begin a new round.
    case sequenceMoved
}
