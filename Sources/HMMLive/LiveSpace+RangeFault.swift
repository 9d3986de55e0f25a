import CLive
import HMM

extension LiveSpace {
    /// Reads what the CPU maps, and faults in what is requested, as `AddressSpace.rangeFault` does on the model. The
    /// mmap lock is held.
    public func rangeFault(_ range: inout HMMRange) throws(HMMError) -> RangeFaultOutcome {
        guard !range.pages.isEmpty, range.interval.pages.contains(range.pages) else {
            throw HMMError(.invalidArgument, "the range is empty or outside its interval")
        }
        var walk = LiveWalk(
            self, range.pages, range.words, defaults: range.defaultRequest, mask: range.requestMask,
            own: range.ownMemory, isPrecise: range.isPrecise)
        defer { range.faultCount += walk.faultCount }
        while true {
            if range.interval.checkRetry(range.sequence) { return .sequenceMoved }
            if try walk.walk() { break }
            // What is known of these pages is about to be dropped.
            if walk.isStale { return .sequenceMoved }
        }
        try watchWrites(walk.watched)
        return .done
    }

    /// Lets the first CPU write of pages be noticed that a device reads and the CPU may not write yet: what it is given
    /// then, a copy or a page of its own, the mirrors have to hear of.
    private func watchWrites(_ runs: [PageRange]) throws(HMMError) {
        for pages in runs {
            guard let mapping = LiveMapping(containing: pages.lowerBound), mapping.isPrivateMemory else { continue }
            // The kernel writes to stacks, and a stack that it cannot write ends the process.
            if mapping.isStack, !clive_answers_kernel_faults() { continue }
            // Memory that cannot be watched is still coherent: the device reads at the page's own address.
            guard (try? adoptMapping(mapping, around: pages)) != nil else { continue }
            noteProtection()
            _ = clive_write_protect(pages.lowerBound.raw, pages.pageCount, true)
        }
    }

    /// Registers the mapping of pages that something is about to be done to, if it is not registered yet.
    ///
    /// - Parameter isTaken: the pages are taken next, which registers them once more.
    func adoptMapping(
        _ mapping: LiveMapping, around pages: PageRange, isTaken: Bool = false
    ) throws(HMMError) {
        let mode = clive_registered(pages.lowerBound.raw)
        let path = mapping.isStack ? .handlerThread : configuration.defaultFaults
        if adoptsPagesOnly(path), mode != Int32(CLIVE_ON_THREAD.rawValue) {
            guard !hasStaleAway(pages) else {
                noteStale(mapping.pages)
                throw HMMError(.tryAgain, "what was known of this memory is dropped first")
            }
            return try register(pages, path)
        }
        if mode >= 0, mode == clive_registered(pages.upperBound.raw - 1) {
            // A registration that is there already is asked for at little cost; one that went takes nothing with it.
            // (To ask the kernel about a page that is there, as of one that is away, would split a huge page.)
            let isThere = !hasStaleAway(pages, in: mapping)
                && (isTaken
                    || clive_register(pages.lowerBound.raw, UInt64(pages.pageCount), clive_mode(UInt32(mode))) == 0)
            if isThere { return }
            noteStale(mapping.pages)
            throw HMMError(.tryAgain, "what was known of this memory is dropped first")
        }
        // The stack of a thread cannot have its faults answered on itself.
        try register(mapping.pages, path)
    }

    /// Memory may be handed to system calls, whose own faults are not answered here: what is missing in registered
    /// memory, only because nothing was written there yet, would be a bad address for the kernel. So no more of it is
    /// registered than a device has to do with.
    func adoptsPagesOnly(_ path: FaultPath) -> Bool { path != .onThread && !clive_answers_kernel_faults() }
}

/// One walk of a range fault over the process's own page tables.
///
/// Invariant: results before `last` are final, words from `last` on are still requests.
///
/// Kernel: mm/hmm.c hmm_range_fault (6.12), as `RangeFaultWalk` has it for the model.
struct LiveWalk {
    private let space: LiveSpace
    private let pages: PageRange
    private let words: UnsafeMutablePointer<UInt64>
    private let defaults: UInt64
    private let mask: UInt64
    private let own: DeviceMemory?
    /// [K] A fault covers the rest of the table, whatever its pages need.
    private let runsToEndOfPiece: Bool
    private var last: PageNumber
    private(set) var faultCount = 0
    /// The walk met pages that are not what is known of them; its results mean nothing.
    private(set) var isStale = false
    private var checked: PageRange?
    /// Pages that were requested and are only readable in a mapping that may be written.
    private(set) var watched: [PageRange] = []

    init(
        _ space: LiveSpace, _ pages: PageRange, _ words: UnsafeMutablePointer<UInt64>, defaults: HMMPageRequest,
        mask: HMMPageRequest, own: DeviceMemory?, isPrecise: Bool
    ) {
        self.space = space
        self.pages = pages
        self.words = words
        self.defaults = defaults.rawValue & HMMPageWord.requestMask
        self.mask = mask.rawValue & HMMPageWord.requestMask
        self.own = own
        runsToEndOfPiece = space.machine.profile.rangeFaultRunsToEndOfPiece && !isPrecise
        last = pages.lowerBound
    }

    /// Walks from `last` to the end. False: something was faulted in, look again.
    mutating func walk() throws(HMMError) -> Bool {
        while last < pages.upperBound, !isStale {
            guard let mapping = LiveMapping(endingAfter: last), mapping.pages.lowerBound < pages.upperBound else {
                try fillWithoutMapping(last..<pages.upperBound)
                break
            }
            if mapping.pages.lowerBound > last { try fillWithoutMapping(last..<mapping.pages.lowerBound) }
            // A piece is what one table maps.
            let tableEnd = last.alignedDown(order: Geometry.pmdOrder).advanced(by: LiveLook.limit)
            let piece = last..<min(tableEnd, mapping.pages.upperBound, pages.upperBound)
            guard mapping.protection.contains(.read), !mapping.isSpecial else {
                try fillWithoutMapping(piece)
                continue
            }
            guard try walk(piece, in: mapping) else { return false }
        }
        return true
    }

    private mutating func fillWithoutMapping(_ piece: PageRange) throws(HMMError) {
        for page in piece where request(page) & HMMPageWord.valid != 0 {
            throw HMMError(.badAddress, "a page was requested where nothing readable is mapped")
        }
        for page in piece { set(page, HMMPageWord.error) }
        last = piece.upperBound
    }

    private mutating func walk(_ piece: PageRange, in mapping: LiveMapping) throws(HMMError) -> Bool {
        var faulting: (from: PageNumber, isWrite: Bool)?
        try LiveLook.forEach(piece, in: mapping) { page, seen throws(HMMError) in
            if seen.word.isAway, !isChecked(page, in: mapping) { return false }
            let found = try result(page, seen)
            let asked = request(page)
            if asked & HMMPageWord.valid != 0, !isOwn(seen.word) {
                let isWrite = asked & HMMPageWord.write != 0 && found & HMMPageWord.write == 0
                if isWrite || found & HMMPageWord.valid == 0 {
                    faulting = (page, isWrite)
                    return false
                }
                if found & HMMPageWord.write == 0, seen.isMappingWritable { watch(page) }
            }
            set(page, found)
            last = page.advanced(by: 1)
            return true
        }
        guard !isStale, let faulting else { return true }
        try fault(faulting.from..<piece.upperBound, faulting.isWrite, in: mapping)
        return false
    }

    /// Asks the kernel once a mapping whether pages that seem to be away are those of this mapping.
    private mutating func isChecked(_ page: PageNumber, in mapping: LiveMapping) -> Bool {
        if checked == mapping.pages { return true }
        isStale = space.isStale(page)
        if isStale { space.noteStale(mapping.pages) } else { checked = mapping.pages }
        return !isStale
    }

    private mutating func fault(_ rest: PageRange, _ isWrite: Bool, in mapping: LiveMapping) throws(HMMError) {
        guard !isWrite || mapping.protection.contains(.write) else {
            throw HMMError(.notPermitted, "a writable page was requested of a mapping that is not")
        }
        faultCount += 1
        let part = runsToEndOfPiece ? rest : rest.lowerBound..<rest.lowerBound.advanced(by: 1)
        try space.faultIn(part, write: isWrite, in: mapping)
    }

    private func result(_ page: PageNumber, _ seen: LiveLook.Page) throws(HMMError) -> UInt64 {
        if seen.word.isAway {
            guard isOwn(seen.word) else { return 0 }
            return HMMPageWord.valid | (seen.word.isReadOnly ? 0 : HMMPageWord.write) | UInt64(seen.word.frame.raw)
        }
        guard seen.isPresent else { return 0 }
        // The private memory of another device, as far as this can be told of a page that stayed in place.
        if seen.word.isCoherent, let memory = space.machine.frames.deviceMemory(of: seen.word.frame),
            memory.kind == .private, memory !== own
        {
            return 0
        }
        let order = seen.isHuge ? HMMPageWord.order(Geometry.pmdOrder) : 0
        let right = seen.isWritable ? HMMPageWord.write : 0
        return HMMPageWord.valid | right | order | UInt64(try space.liveFrame(page).raw)
    }

    /// A page in the caller's own memory is reported as it is, whatever was asked.
    private func isOwn(_ word: LiveWord) -> Bool {
        guard let own, word.isAway, !word.isExclusive else { return false }
        return own.contains(word.frame)
    }

    private mutating func watch(_ page: PageNumber) {
        if let end = watched.last?.upperBound, end == page {
            watched[watched.count - 1] = watched[watched.count - 1].lowerBound..<page.advanced(by: 1)
        } else {
            watched.append(page..<page.advanced(by: 1))
        }
    }

    private func request(_ page: PageNumber) -> UInt64 {
        words[pages.lowerBound.distance(to: page)] & mask | defaults
    }

    private func set(_ page: PageNumber, _ result: UInt64) {
        let word = words + pages.lowerBound.distance(to: page)
        word.pointee = word.pointee & HMMPageWord.marksMask | result
    }
}
