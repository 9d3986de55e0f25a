import Synchronization

/// One walk of a range fault: through the VMAs, and below them through the tables, one step for each hole, huge leaf
/// and PTE table.
///
/// Invariant: results before `last` are final, words from `last` on are still requests. A restart continues at `last`.
///
/// Kernel: mm/hmm.c hmm_walk_ops and its handlers (6.12). Differs from Linux: there, one error code says "restart",
/// "sequence moved" and "busy"; here they are `Step.restart`, `RangeFaultOutcome.sequenceMoved` and an error.
struct RangeFaultWalk {
    /// What the walk does after an entry or a piece.
    enum Step {
        case next
        /// Something slept or faulted. Continue at `last` with a fresh look.
        case restart
        /// Pages were collected, so nobody may be waited for, and the next page needs that: the walk ends at `last`.
        case stop
    }

    /// What has to be done to a page before its request is met.
    struct Need: OptionSet {
        let rawValue: UInt8
        static let fault = Need(rawValue: 1)
        static let write = Need(rawValue: 2)
        static let everything: Need = [.fault, .write]
    }

    let space: AddressSpace
    let words: UnsafeMutablePointer<UInt64>
    let pages: PageRange
    /// Asked of every page, and the part of the pages' own words that counts.
    let defaults: UInt64
    let mask: UInt64
    /// The caller's own device-private memory: reported, not brought home.
    let ownZones: ZoneSet
    /// Gets each step after the walk, or nil.
    let collector: (any PageCollector)?
    /// [K] A fault runs to the end of the piece.
    let runsToEndOfPiece: Bool
    /// Some word has marks of the driver.
    let hasMarks: Bool
    /// Where a restart continues.
    var last: PageNumber
    var faultCount = 0

    init(_ space: AddressSpace, _ range: borrowing HMMRange) {
        self.space = space
        words = range.words
        pages = range.pages
        defaults = range.defaultRequest.rawValue & HMMPageWord.requestMask
        mask = range.requestMask.rawValue & HMMPageWord.requestMask
        ownZones = ZoneSet(range.ownMemory.map { [$0] } ?? [])
        collector = nil
        runsToEndOfPiece = space.machine.profile.rangeFaultRunsToEndOfPiece && !range.isPrecise
        hasMarks = range.hasMarks
        last = range.pages.lowerBound
    }

    /// A walk that wants migration. All pages are asked the same, so that it can look again at pages it has answered.
    init(
        _ space: AddressSpace, _ pages: PageRange, words: UnsafeMutablePointer<UInt64>, request: HMMPageRequest,
        ownZones: ZoneSet, collector: (any PageCollector)?
    ) {
        self.space = space
        self.words = words
        self.pages = pages
        defaults = request.rawValue & HMMPageWord.requestMask
        mask = 0
        self.ownZones = ownZones
        self.collector = collector
        runsToEndOfPiece = space.machine.profile.rangeFaultRunsToEndOfPiece
        hasMarks = false
        last = pages.lowerBound
    }

    /// Every page is asked the same, whatever its own word says.
    private var isUniform: Bool { mask == 0 }

    // MARK: Pieces

    /// Walks from `last` to the end.
    mutating func walk() throws(HMMError) -> Step {
        var page = last
        while page < pages.upperBound {
            let vma = space.vmas.firstEnding(after: page)
            guard let vma, vma.pages.lowerBound < pages.upperBound else {
                try fillWithoutMapping(page..<pages.upperBound)
                break
            }
            if vma.pages.lowerBound > page {
                try fillWithoutMapping(page..<vma.pages.lowerBound)
                page = vma.pages.lowerBound
            }
            let piece = page..<min(vma.pages.upperBound, pages.upperBound)
            let result = try walk(piece, in: vma)
            if result != .next { return result }
            page = piece.upperBound
        }
        return .next
    }

    /// A part of the range that has no VMA, or one that no walker may look into.
    private func fillWithoutMapping(_ piece: PageRange) throws(HMMError) {
        guard need(piece, found: 0).isEmpty else {
            throw HMMError(.badAddress, "a page was requested where nothing readable is mapped")
        }
        fill(piece, HMMPageWord.error)
    }

    private mutating func walk(_ piece: PageRange, in vma: VMA) throws(HMMError) -> Step {
        // Without the right to read there is none to write: no architecture that matters has it.
        guard vma.isReadable, !vma.flags.contains(.special) else {
            try fillWithoutMapping(piece)
            return .next
        }
        var cursor = PageTableCursor(space.tables, piece)
        while let step = cursor.advance() {
            let result =
                switch step.kind {
                case .hole: try walkHole(step.pages, in: vma)
                case .pteTable: try walkTable(step, in: vma)
                case .pmdLeaf, .pudLeaf: try walkLeaf(step, in: vma)
                }
            if let collector {
                let collected = collect(step, in: vma, after: result, collector)
                if collected != .next { return collected }
            } else if result != .next {
                return result
            }
        }
        return .next
    }

    /// Lets the collector have a step that the walk is done with. Pages are collected by whole steps: one that was left
    /// in the middle is walked again from its beginning.
    private mutating func collect(
        _ step: PageTableCursor.Step, in vma: VMA, after result: Step, _ collector: any PageCollector
    ) -> Step {
        guard result == .next else {
            last = step.pages.lowerBound
            return result
        }
        guard let again = collector.collect(step, in: vma) else { return .next }
        last = again
        return .restart
    }

    /// Whether others may be waited for.
    var mayWait: Bool { collector?.mayWait ?? true }

    private mutating func walkHole(_ piece: PageRange, in vma: VMA) throws(HMMError) -> Step {
        let need = need(piece, found: 0)
        if !need.isEmpty { return try fault(piece, need, in: vma) }
        fill(piece, 0)
        return .next
    }

    // MARK: Huge leaves

    /// The leaf was read once, without its lock. Whoever splits it invalidates, and then the sequence has moved.
    private mutating func walkLeaf(_ step: PageTableCursor.Step, in vma: VMA) throws(HMMError) -> Step {
        let entry = step.seen
        guard entry.isPresent else { return try walkSoftLeaf(step, in: vma) }
        let found = entry.isProtNone ? 0 : Self.leafBits(isWritable: entry.isWritable, level: step.level)
        let need = need(step.pages, found: found)
        if !need.isEmpty { return try faultLeaf(step.pages, need, in: vma) }
        fill(step.pages, found, from: found == 0 ? nil : firstFrame(step))
        return .next
    }

    /// A huge leaf that is not present.
    private mutating func walkSoftLeaf(_ step: PageTableCursor.Step, in vma: VMA) throws(HMMError) -> Step {
        let leaf = step.seen.softLeaf
        if let leaf, leaf.kind == .devicePrivate, isOwnPrivate(leaf.frame) {
            let found = Self.leafBits(isWritable: leaf.isWriteKind, level: step.level)
            fill(step.pages, found, from: firstFrame(step))
            return .next
        }
        let need = need(step.pages, found: 0)
        switch leaf?.kind {
        case .migration:
            guard !need.isEmpty, let leaf else { break }
            return wait(for: leaf, in: step.entry, at: step.pages.lowerBound)
        case .devicePrivate:
            // Differs from Linux: 6.12 has no such leaf. Another device's memory comes home as it does at PTE level.
            if !need.isEmpty { return try faultLeaf(step.pages, need, in: vma) }
        default:
            guard need.isEmpty else { throw HMMError(.badAddress, "a huge entry is not memory") }
            fill(step.pages, HMMPageWord.error)
            return .next
        }
        fill(step.pages, 0)
        return .next
    }

    /// The frame of the first page of the step, which may begin in the middle of the leaf.
    private func firstFrame(_ step: PageTableCursor.Step) -> FrameNumber {
        let head = step.pages.lowerBound.alignedDown(order: step.level.order)
        return step.seen.frame + head.distance(to: step.pages.lowerBound)
    }

    private static func leafBits(isWritable: Bool, level: PageLevel) -> UInt64 {
        HMMPageWord.valid | (isWritable ? HMMPageWord.write : 0) | HMMPageWord.order(level.order)
    }

    // MARK: PTE tables

    /// A table of 4 KiB entries: runs of present entries with the right that all pages are asked for go by the hot
    /// loop, the others one by one, and all of them if each page has a request of its own.
    private mutating func walkTable(_ step: PageTableCursor.Step, in vma: VMA) throws(HMMError) -> Step {
        let count = step.pages.pageCount
        let out = words + pages.lowerBound.distance(to: step.pages.lowerBound)
        let entries = step.entry
        schedulingPoint(.load, on: UInt(bitPattern: entries))
        let isWriteWanted = HMMPageRequest(rawValue: defaults).contains([.fault, .write])
        var index = 0
        while index < count {
            if isUniform {
                index += Self.copyPresent(
                    entries + index, out + index, count - index, writable: isWriteWanted,
                    hasMarks: hasMarks)
                guard index < count else { break }
            }
            let entry = PageTableEntry(raw: entries[index].load(ordering: .relaxed))
            let result = try walkEntry(entry, entries + index, step.pages, index, in: vma)
            if result != .next { return result }
            index += 1
        }
        return .next
    }

    /// The hot loop, for ranges with and without marks of the driver. Returns the number of entries before the first
    /// one that is not present, not readable, or not writable if that is wanted.
    ///
    /// A function of its own, so that everything stays in registers.
    @inline(never)
    private static func copyPresent(
        _ entries: EntryPointer, _ out: UnsafeMutablePointer<UInt64>, _ count: Int, writable: Bool, hasMarks: Bool
    ) -> Int {
        hasMarks
            ? copyPresent(entries, out, count, writable, keeping: HMMPageWord.marksMask)
            : copyPresent(entries, out, count, writable, keeping: 0)
    }

    /// A relaxed load and a store for each page, no calls, and one branch for four of them.
    @inline(__always)
    private static func copyPresent(
        _ entries: EntryPointer, _ out: UnsafeMutablePointer<UInt64>, _ count: Int, _ writable: Bool,
        keeping marks: UInt64
    ) -> Int {
        let wanted = PageTableEntry.presentBit | (writable ? PageTableEntry.writableBit : 0)
        let tested = wanted | PageTableEntry.protNoneBit
        var index = 0
        while index &+ 4 <= count {
            let a = entries[index].load(ordering: .relaxed)
            let b = entries[index &+ 1].load(ordering: .relaxed)
            let c = entries[index &+ 2].load(ordering: .relaxed)
            let d = entries[index &+ 3].load(ordering: .relaxed)
            let isOneOther = ((a ^ wanted) | (b ^ wanted) | (c ^ wanted) | (d ^ wanted)) & tested != 0
            if isOneOther { break }
            out[index] = out[index] & marks | result(a)
            out[index &+ 1] = out[index &+ 1] & marks | result(b)
            out[index &+ 2] = out[index &+ 2] & marks | result(c)
            out[index &+ 3] = out[index &+ 3] & marks | result(d)
            index &+= 4
        }
        while index < count {
            let raw = entries[index].load(ordering: .relaxed)
            if raw & tested != wanted { break }
            out[index] = out[index] & marks | result(raw)
            index &+= 1
        }
        return index
    }

    /// What a range fault answers for an entry that is present. Nothing lies above an entry's payload, so the shift
    /// alone isolates the frame.
    @inline(__always)
    private static func result(_ raw: UInt64) -> UInt64 {
        raw &>> PageTableEntry.payloadShift | (raw & PageTableEntry.writableBit) &<< 61 | HMMPageWord.valid
    }

    /// One entry that needs a decision. A fault runs from its page to the end of `piece`.
    private mutating func walkEntry(
        _ entry: PageTableEntry, _ pointer: EntryPointer, _ piece: PageRange, _ index: Int, in vma: VMA
    ) throws(HMMError) -> Step {
        let page = piece.lowerBound.advanced(by: index)
        let out = words + pages.lowerBound.distance(to: page)
        if let leaf = entry.softLeaf {
            return try walkSoftEntry(leaf, pointer, page..<piece.upperBound, out, in: vma)
        }
        var found: UInt64 = 0
        if entry.isAccessible { found = HMMPageWord.valid | (entry.isWritable ? HMMPageWord.write : 0) }
        let need = need(out.pointee, found: found)
        if !need.isEmpty { return try fault(page..<piece.upperBound, need, in: vma, entries: pointer) }
        // Differs from Linux: 6.12 leaves the frame of a PROT_NONE entry in a result that is not valid.
        if found != 0 { found |= UInt64(entry.frame.raw) }
        out.pointee = out.pointee & HMMPageWord.marksMask | found
        return .next
    }

    /// An entry that says where the page went. `piece` begins at its page.
    private mutating func walkSoftEntry(
        _ leaf: SoftLeaf, _ pointer: EntryPointer, _ piece: PageRange, _ out: UnsafeMutablePointer<UInt64>, in vma: VMA
    ) throws(HMMError) -> Step {
        if leaf.kind == .devicePrivate, isOwnPrivate(leaf.frame) {
            // Reported, never faulted, even if a write was asked for and the entry is read-only: the driver must look.
            let found = HMMPageWord.valid | (leaf.isWriteKind ? HMMPageWord.write : 0) | UInt64(leaf.frame.raw)
            out.pointee = out.pointee & HMMPageWord.marksMask | found
            return .next
        }
        let need = need(out.pointee, found: 0)
        guard !need.isEmpty else {
            out.pointee &= HMMPageWord.marksMask
            return .next
        }
        switch leaf.kind {
        case .migration: return wait(for: leaf, in: pointer, at: piece.lowerBound)
        case .swap, .devicePrivate, .deviceExclusive, .marker:
            return try fault(piece, need, in: vma, entries: pointer)
        case .poison: throw HMMError(.badAddress, "a page that was requested has failed")
        }
    }

    func isOwnPrivate(_ frame: FrameNumber) -> Bool {
        ownZones.contains(space.frames.zone(of: frame))
    }

    // MARK: Requests

    /// What one page needs, given its word and what the CPU's entry permits.
    @inline(__always)
    func need(_ word: UInt64, found: UInt64) -> Need {
        let request = word & mask | defaults
        guard request & HMMPageWord.valid != 0 else { return [] }
        if request & HMMPageWord.write != 0, found & HMMPageWord.write == 0 { return .everything }
        return found & HMMPageWord.valid == 0 ? .fault : []
    }

    /// What the pages of a piece need together. When all are asked the same, one look is enough.
    private func need(_ piece: PageRange, found: UInt64) -> Need {
        if isUniform { return need(0, found: found) }
        var union: Need = []
        let first = words + pages.lowerBound.distance(to: piece.lowerBound)
        for index in 0..<piece.pageCount {
            union.formUnion(need(first[index], found: found))
            if union == .everything { break }
        }
        return union
    }

    /// Stores a result into the pages of a piece, with ascending frames if there is a first one.
    private func fill(_ piece: PageRange, _ found: UInt64, from first: FrameNumber? = nil) {
        let out = words + pages.lowerBound.distance(to: piece.lowerBound)
        let stride: UInt64 = first == nil ? 0 : 1
        var word = found | UInt64(first?.raw ?? 0)
        for index in 0..<piece.pageCount {
            out[index] = out[index] & HMMPageWord.marksMask | word
            word &+= stride
        }
    }
}
