import CLive
import Glibc
import HMM

// Setup: what is where, and what of it may go. Nothing changes but what mirrors hold.

extension LiveMigration {
    func collect() throws(HMMError) {
        let invalidation = Invalidation.begin(space.notifiers, event)
        var failure: HMMError?
        do throws(HMMError) { try collectNotified() } catch { failure = error }
        invalidation.end()
        if let failure { throw failure }
    }

    private func collectNotified() throws(HMMError) {
        if request.fault.contains(.fault) { try faultIn() }
        if request.select.contains(.system), mapping.isPrivateMemory, mapping.protection.contains(.read) {
            do throws(HMMError) {
                let isTaken = request.ownMemory?.kind == .private
                try space.adoptMapping(mapping, around: pages, isTaken: isTaken)
                isMovable = true
            } catch {
                // Nothing is known of this memory at the moment, so nothing of it goes.
                if error.code == .tryAgain { return }
            }
        }
        let isPlain = isMovable && !space.hasProtectedPages && fillsWritable
            && !space.configuration.tellsZeroPages
        let isWanted = !request.select.isDisjoint(with: [.system, .deviceCoherent])
        var first = pages.lowerBound
        while first < pages.upperBound {
            // The words of a segment lie side by side; the page tables are looked at table by table.
            let order = isWanted && !isPlain ? Geometry.pmdOrder : FrameNumber.liveSegmentOrder
            let end = min(first.alignedDown(order: order).advanced(by: 1 << order), pages.upperBound)
            if !isWanted {
                collectAway(first..<end)
            } else if isPlain {
                try collectPlain(first..<end)
            } else {
                try collectLooking(first..<end)
            }
            first = end
        }
    }

    /// Only what is in a device's memory is asked for: the page tables have nothing to say.
    private func collectAway(_ part: PageRange) {
        guard let words = clive_word(part.lowerBound.raw) else { return }
        let first = index(of: part.lowerBound)
        let (source, slots) = (source + first, slots + first)
        var places = KnownPlaces(request)
        let migrate = MigrationWord.migrate
        var collected = 0
        // What is said of the page behind, if it is in the next slot and alike. Not beyond a table's slots, which may
        // be another device's.
        var next = (known: UInt64(0), source: UInt64(0), slot: UInt32(0))
        let last = UInt32(Unit.pageCount - 1)
        for offset in 0..<part.pageCount {
            var word = LiveWord(raw: clive_load(words + offset))
            if word.raw == 0 { continue }
            if word.raw == next.known {
                (source[offset], slots[offset]) = (next.source, next.slot)
                let isLast = next.slot & last == last
                next = (isLast ? 0 : word.withNextFrame, next.source + 1, next.slot + 1)
                collected += 1
                continue
            }
            if word.isBusy { word = LiveWord.load(part.lowerBound.advanced(by: offset)) }
            guard word.isAway, let seen = awayWord(word, first + offset, &places) else { continue }
            source[offset] = seen.word
            guard seen.word & migrate != 0 else { continue }
            slots[offset] = seen.slot
            collected += 1
            let isLast = seen.slot & last == last
            next = (isLast ? 0 : word.withNextFrame, seen.word + 1, seen.slot + 1)
        }
        noteCollected(collected)
    }

    private func collectLooking(_ part: PageRange) throws(HMMError) {
        try LiveLook.forEach(part, in: mapping) { page, seen throws(HMMError) in
            source[index(of: page)] = try word(page, seen)
            return true
        }
    }

    /// Pages of memory in which nothing was ever write-protected: whoever is present may be written, so only holes have
    /// to be told apart, and what cannot move is found out when it is moved.
    private func collectPlain(_ part: PageRange) throws(HMMError) {
        // This makes the segment, if it is new.
        let frame = UInt64(try liveFrame(part.lowerBound).raw)
        guard let words = clive_word(part.lowerBound.raw) else { return }
        let isSystemSelected = request.select.contains(.system)
        let going = isSystemSelected ? MigrationWord.migrate : 0
        let held = HMMPageWord.valid | HMMPageWord.write | (isSystemSelected ? going | MigrationWord.held : 0)
        let first = index(of: part.lowerBound)
        let out = source + first
        var special: [Int] = []
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: part.pageCount) { residence in
            // It fails only where nothing is mapped, and then there is nothing to collect.
            let start = UnsafeMutableRawPointer(bitPattern: part.start)
            guard mincore(start, part.lengthBytes, residence.baseAddress!) == 0 else { return }
            let isResident = residence.baseAddress!
            if isSystemSelected, clive_are_home(words, part.pageCount), areAllSet(isResident, part.pageCount) {
                for offset in 0..<part.pageCount { out[offset] = held &+ frame &+ UInt64(truncatingIfNeeded: offset) }
                collectedCount += part.pageCount
                plainCount += part.pageCount
                return
            }
            for offset in 0..<part.pageCount {
                if LiveWord(raw: clive_load(words + offset)).isPlainlyHome {
                    out[offset] = isResident[offset] & 1 == 0 ? going : held | (frame + UInt64(offset))
                } else {
                    special.append(offset)
                }
            }
            if isSystemSelected { collectedCount += part.pageCount - special.count }
        }
        for offset in special { out[offset] = try wordOfKnown(part.lowerBound.advanced(by: offset), first + offset) }
    }

    /// Whether the lowest bit of all bytes is set.
    private func areAllSet(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
        var all: UInt8 = 1
        for index in 0..<count { all &= bytes[index] }
        return all == 1
    }

    /// Of a page of which more is known than that it is at home.
    private func wordOfKnown(_ page: PageNumber, _ index: Int) throws(HMMError) -> UInt64 {
        let known = LiveWord.load(page)
        if known.isAway { return awayWord(known, index) }
        var result: UInt64 = 0
        try LiveLook.forEach(page..<page.advanced(by: 1), in: mapping) { page, seen throws(HMMError) in
            result = try word(page, seen)
            return true
        }
        return result
    }

    private func faultIn() throws(HMMError) {
        if let interval = request.interval, interval.checkRetry(request.sequence) {
            throw HMMError(.busy, "an invalidation came in between")
        }
        let words = UnsafeMutablePointer<UInt64>.allocate(capacity: pages.pageCount)
        words.initialize(repeating: 0, count: pages.pageCount)
        defer { words.deallocate() }
        var walk = LiveWalk(
            space, pages, words, defaults: request.fault, mask: [], own: request.ownMemory, isPrecise: true)
        while try !walk.walk() {}
    }

    /// The word of a page after setup: what it is, and whether it may go.
    private func word(_ page: PageNumber, _ seen: LiveLook.Page) throws(HMMError) -> UInt64 {
        if seen.word.isAway { return awayWord(seen.word, index(of: page)) }
        // What was written in a private mapping of a file is the process's own too. It cannot move: it becomes the
        // device's in place.
        let isOrdinary = mapping.isPrivate && !seen.isFile
        if mapping.isPrivateMemory, !seen.isFile, seen.isHole || seen.isZero, !seen.word.isCoherent {
            guard request.select.contains(.system), !seen.word.isReturned else { return 0 }
            collectedCount += 1
            return MigrationWord.migrate
        }
        guard seen.isPresent else { return 0 }
        let right = seen.isWritable ? HMMPageWord.write : 0
        let result = HMMPageWord.valid | right | UInt64(try liveFrame(page).raw)
        guard isOrdinary, isSelected(seen.word), !seen.word.isReturned else { return result }
        if seen.word.isCoherent {
            slots[index(of: page)] = seen.word.frame.raw
            slotCount += 1
            hasInPlace = true
        }
        collectedCount += 1
        return result | MigrationWord.migrate | MigrationWord.held
    }

    /// Of a page that is present.
    private func isSelected(_ word: LiveWord) -> Bool {
        guard word.isCoherent else { return request.select.contains(.system) }
        return request.select.contains(.deviceCoherent) && isSource(word.frame)
    }

    /// Asks the kernel once whether pages that seem to be away are those of this mapping.
    private func isKnown(_ page: PageNumber) -> Bool {
        if let isAwayKnown { return isAwayKnown }
        let isStale = space.isStale(page)
        if isStale { space.noteStale(mapping.pages) }
        isAwayKnown = !isStale
        return !isStale
    }

    /// Of a page that is away: what to tell of it, and if it migrates, from which slot.
    @inline(__always)
    private func awayWord(
        _ word: LiveWord, _ index: Int, _ places: inout KnownPlaces
    ) -> (word: UInt64, slot: UInt32)? {
        guard !word.isExclusive, isAwayKnown ?? isKnown(page(index)) else { return nil }
        places.find(word.frame)
        let result = (word.isReadOnly ? places.readable : places.writable) | UInt64(word.frame.raw)
        if places.isLeft { return (result, word.frame.raw) }
        return places.isOwn ? (result, 0) : nil
    }

    private func awayWord(_ word: LiveWord, _ index: Int) -> UInt64 {
        var places = KnownPlaces(request)
        guard let seen = awayWord(word, index, &places) else { return 0 }
        if seen.word & MigrationWord.migrate != 0 {
            slots[index] = seen.slot
            noteCollected(1)
        }
        return seen.word
    }

    private func noteCollected(_ count: Int) {
        collectedCount += count
        slotCount += count
    }

    private func isSource(_ frame: FrameNumber) -> Bool {
        for memory in request.sources where memory.contains(frame) { return true }
        return false
    }
}

/// Whose a slot is, looked up once a chunk of frames: all of one belong to one device.
private struct KnownPlaces {
    private let request: MigrationRequest
    private var chunk = UInt32.max
    /// Pages leave this memory.
    private(set) var isLeft = false
    private(set) var isOwn = false
    /// The words of such pages, but for the slot.
    private(set) var (readable, writable): (UInt64, UInt64) = (0, 0)
    private let chunkFrames = UInt32(FrameTable.chunkFrames)

    init(_ request: MigrationRequest) { self.request = request }

    @inline(__always)
    mutating func find(_ frame: FrameNumber) {
        let number = frame.raw / chunkFrames
        if number != chunk { look(frame, number) }
    }

    private mutating func look(_ frame: FrameNumber, _ number: UInt32) {
        chunk = number
        isOwn = request.ownMemory?.contains(frame) ?? false
        isLeft = request.select.contains(.devicePrivate) && request.sources.contains { $0.contains(frame) }
        readable = HMMPageWord.valid | (isLeft ? MigrationWord.migrate | MigrationWord.held : 0)
        writable = readable | HMMPageWord.write
    }
}
