/// What a device wants of one page, on behalf of one client.
public struct DeviceFaultRequest: Hashable, Sendable {
    public var page: PageNumber
    public var access: AccessKind
    /// The engine, to be resumed or cancelled.
    public var client: UInt64
    /// The place in the queue, which tells equal requests apart; set when it is accepted.
    public internal(set) var ticket: UInt64 = 0

    public init(page: PageNumber, access: AccessKind, client: UInt64) {
        self.page = page
        self.access = access
        self.client = client
    }
}

/// When neighbours are worth a look beside the page that faulted.
public struct FaultCoalescing: Sendable {
    /// Requests that a batch takes from the queue at most.
    public var batchLimit = 256
    /// Faulted pages in an aligned block of 64 KiB or 2 MiB that justify looking at all of it.
    public var threshold64K = 2
    public var threshold2M = 32

    public init() {}
}

/// A batch of faults, merged: the decisions of the fault queue, without locks and effects.
struct FaultBatch {
    /// All requests for one page.
    struct Entry: Equatable {
        var page: PageNumber
        /// The strongest access that somebody wants.
        var access: AccessKind
        /// Who waits, and for what.
        var requests: [DeviceFaultRequest]
    }

    /// Ascending by page, one for each.
    private(set) var entries: [Entry] = []

    init(_ requests: some Sequence<DeviceFaultRequest>) {
        let sorted = requests.enumerated().sorted {
            ($0.element.page, $1.element.access, $0.offset) < ($1.element.page, $0.element.access, $1.offset)
        }
        for (_, request) in sorted {
            if let last = entries.last, last.page == request.page {
                entries[entries.count - 1].requests.append(request)
            } else {
                entries.append(Entry(page: request.page, access: request.access, requests: [request]))
            }
        }
    }

    var isEmpty: Bool { entries.isEmpty }
    var requests: [DeviceFaultRequest] { entries.flatMap(\.requests) }

    mutating func remove(at index: Int) -> Entry { entries.remove(at: index) }

    /// Takes the entries of a range out.
    mutating func remove(in pages: PageRange) -> [Entry] {
        let taken = entries.filter { pages.contains($0.page) }
        entries.removeAll { pages.contains($0.page) }
        return taken
    }

    /// The block to look at for the first entry: the largest aligned window of 2 MiB or 64 KiB around its page that
    /// lies in the mapping and has enough faults, or of which the device has the neighbours already; else the page
    /// alone.
    func firstBlock(
        in mapping: PageRange, _ coalescing: FaultCoalescing, isMirrored: (PageNumber) -> Bool
    ) -> PageRange {
        let page = entries[0].page
        for (order, threshold) in [(Geometry.pmdOrder, coalescing.threshold2M), (4, coalescing.threshold64K)] {
            let start = page.alignedDown(order: order)
            let window = start..<start.advanced(by: 1 << order)
            guard mapping.contains(window) else { continue }
            let faults = entries.prefix { $0.page < window.upperBound }.count
            if faults >= threshold { return window }
            guard order == 4, page > window.lowerBound else { continue }
            if isMirrored(page.advanced(by: -1)) { return window }
        }
        return page..<page.advanced(by: 1)
    }
}
