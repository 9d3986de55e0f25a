import Synchronization

/// The ranges of one shootdown; above a limit, everything.
public struct MirrorShootdown: Sendable {
    /// More ranges than this become a full invalidation.
    public static let rangeLimit = 16

    private var storage = InlineArray<16, PageRange>(repeating: PageNumber(0)..<PageNumber(0))
    public private(set) var count = 0
    public private(set) var isFull = false

    public init() {}

    public var isEmpty: Bool { count == 0 && !isFull }

    public subscript(index: Int) -> PageRange {
        precondition(index < count, "no such range")
        return storage[index]
    }

    /// Adds a range, joining it with the last one if they touch.
    public mutating func add(_ pages: PageRange) {
        guard !isFull, !pages.isEmpty else { return }
        if count > 0 {
            let last = storage[count - 1]
            if pages.lowerBound <= last.upperBound && last.lowerBound <= pages.upperBound {
                storage[count - 1] =
                    min(last.lowerBound, pages.lowerBound)..<max(last.upperBound, pages.upperBound)
                return
            }
        }
        guard count < Self.rangeLimit else {
            isFull = true
            return
        }
        storage[count] = pages
        count += 1
    }

    /// Whether a range has a page in common with the shootdown.
    public func overlaps(_ pages: PageRange) -> Bool {
        if isFull { return true }
        for index in 0..<count where storage[index].overlaps(pages) { return true }
        return false
    }
}

/// What one call changed so far: collected on the stack, because nothing may be allocated in an invalidation.
///
/// When the place for dirty runs is used up, the caller flushes and goes on; the order (entries, device, dirty report)
/// holds for each part.
struct MirrorUpdate: ~Copyable {
    /// Neighbouring dirty pages, as the word of the first entry and the number of pages.
    private struct DirtyPiece {
        var page: UInt64
        var count: UInt64
        var word: UInt64
    }

    private static let dirtyLimit = 32
    /// What two dirty pages must share to be reported as one run, apart from the payload.
    private static let sharedBits =
        MirrorEntry.validMask | MirrorEntry.locationMask | MirrorEntry.levelMask | MirrorEntry.atomicBit

    private var shootdown = MirrorShootdown()
    private var pieces = InlineArray<32, DirtyPiece>(repeating: DirtyPiece(page: 0, count: 0, word: 0))
    private var pieceCount = 0

    /// One more dirty page may be noted only while this is false.
    var isFull: Bool { pieceCount == Self.dirtyLimit }

    /// These entries lost rights, or their dirty bits.
    mutating func noteChanged(_ pages: PageRange) { shootdown.add(pages) }

    /// The device wrote to these pages through this entry, whose payload is that of the first page.
    mutating func noteDirty(_ page: PageNumber, count: Int, entry: MirrorEntry) {
        if pieceCount > 0 {
            let last = pieces[pieceCount - 1]
            let following = (last.word &+ last.count << MirrorEntry.payloadShift) ^ entry.word
            if last.page &+ last.count == page.raw, following >> MirrorEntry.payloadShift == 0,
                (last.word ^ entry.word) & Self.sharedBits == 0
            {
                pieces[pieceCount - 1].count = last.count &+ UInt64(count)
                return
            }
        }
        pieces[pieceCount] = DirtyPiece(page: page.raw, count: UInt64(count), word: entry.word)
        pieceCount += 1
    }

    /// Shoots the device down, waits for it, reports what is dirty.
    ///
    /// Must be called without a directory lock: it waits.
    mutating func flush(to effects: MirrorEffects, deviceAddressOffset: UInt64 = 0) {
        if !shootdown.isEmpty {
            // Pairs with the fence of a device that registers its access before it reads the entry: either it sees the
            // new entry or the shootdown sees its access.
            atomicMemoryFence(ordering: .sequentiallyConsistent)
            effects.translationCache?.shootDown(shootdown)
            shootdown = MirrorShootdown()
        }
        if let reportDirty = effects.reportDirty {
            for index in 0..<pieceCount {
                let piece = pieces[index]
                let entry = MirrorEntry(word: piece.word)
                let page = PageNumber(piece.page)
                reportDirty(
                    MirrorRun(
                        pages: page..<page.advanced(by: Int(piece.count)), entry: entry,
                        firstFrame: entry.frame(deviceAddressOffset: deviceAddressOffset)))
            }
        }
        pieceCount = 0
    }
}
