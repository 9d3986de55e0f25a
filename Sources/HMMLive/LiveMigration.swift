import CLive
import Glibc
import HMM

/// A migration of pages of the process: used by one thread.
///
/// Nothing is taken out of the page tables before commit: then each page goes in one step from its address into its
/// slot, with the bytes that it has at that moment, so a CPU that writes meanwhile loses nothing. What is collected is
/// therefore only what may go.
///
/// Lock order: mmap (the caller's, reading) > the folios of destinations.
final class LiveMigration: MigrationEngine {
    private let space: LiveSpace
    private let frames: FrameTable
    private let mapping: LiveMapping
    private let request: MigrationRequest

    private(set) var pages: PageRange
    let source: UnsafeMutablePointer<UInt64>
    let destination: UnsafeMutablePointer<UInt64>
    private(set) var phase = MigrationPhase.setup
    var fillsWritable: Bool { mapping.protection.contains(.write) }
    private(set) var collectedCount = 0
    private(set) var movedCount = 0
    private(set) var filledHoleCount = 0
    /// The kernel moves whole huge pages where it can, and splits them where it must.
    var refusedUnits: Bool { false }
    private(set) var copyFailures = 0
    private(set) var missingDestinations = 0
    /// Where pages go that have no destination in a device: home.
    private var isBoundForHome = false
    /// Pages can be taken out of the mapping. Private pages of a file mapping cannot: userfaultfd does not answer for
    /// them, so they are the device's where they are.
    private var isMovable = false
    private var lastLive: (page: PageNumber, frame: FrameNumber)?

    init(_ space: LiveSpace, _ pages: PageRange, _ request: MigrationRequest) throws(HMMError) {
        mapping = try Self.validate(pages, request)
        self.space = space
        frames = space.machine.frames
        self.pages = pages
        self.request = request
        let count = pages.pageCount
        source = .allocate(capacity: count)
        source.initialize(repeating: 0, count: count)
        destination = .allocate(capacity: count)
        destination.initialize(repeating: 0, count: count)
        do throws(HMMError) { try collect() } catch {
            phase = .finished
            throw error
        }
        phase = .collected
    }

    deinit {
        precondition(phase == .finished, "a migration was dropped with destinations in hand")
        source.deallocate()
        destination.deallocate()
    }

    private static func validate(_ pages: PageRange, _ request: MigrationRequest) throws(HMMError) -> LiveMapping {
        guard !pages.isEmpty, let mapping = LiveMapping(containing: pages.lowerBound) else {
            throw HMMError(.invalidArgument, "nothing is mapped where the migration begins")
        }
        guard !mapping.isHugetlb, !mapping.isSpecial else {
            throw HMMError(.invalidArgument, "hugetlb pages, and what is not memory, cannot migrate")
        }
        guard mapping.pages.contains(pages) else {
            throw HMMError(.outOfRange, "a migration lies in one mapping")
        }
        return mapping
    }

    // MARK: Setup

    private func collect() throws(HMMError) {
        let invalidation = Invalidation.begin(space.notifiers, event)
        var failure: HMMError?
        do throws(HMMError) { try collectNotified() } catch { failure = error }
        invalidation.end()
        if let failure { throw failure }
    }

    private var event: InvalidationRange { InvalidationRange(.migrate, pages, owner: request.owner) }

    private func collectNotified() throws(HMMError) {
        if request.fault.contains(.fault) { try faultIn() }
        if request.select.contains(.system), mapping.isPrivateMemory, mapping.protection.contains(.read) {
            isMovable = (try? space.adoptMapping(mapping, around: pages)) != nil
        }
        let isPlain = isMovable && !mapping.isFile && !space.hasProtectedPages && fillsWritable
            && !space.configuration.tellsZeroPages
        var first = pages.lowerBound
        while first < pages.upperBound {
            let end = min(first.advanced(by: LiveLook.limit), pages.upperBound)
            if isPlain { try collectPlain(first..<end) } else { try collectLooking(first..<end) }
            first = end
        }
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
        let isSystemSelected = request.select.contains(.system)
        let present = HMMPageWord.valid | HMMPageWord.write
        let going = isSystemSelected ? MigrationWord.migrate | MigrationWord.held : 0
        var failure: HMMError?
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: part.pageCount) { residence in
            guard mincore(UnsafeMutableRawPointer(bitPattern: part.start), part.lengthBytes, residence.baseAddress!) == 0
            else {
                failure = HMMError(.badAddress, "the mapping is gone")
                return
            }
            var count = 0
            let firstIndex = index(of: part.lowerBound)
            for offset in 0..<part.pageCount {
                let page = part.lowerBound.advanced(by: offset)
                let seen = LiveWord.load(page)
                guard seen.isPlainlyHome else {
                    do throws(HMMError) { source[firstIndex + offset] = try wordOfKnown(page, seen) } catch {
                        failure = error
                    }
                    continue
                }
                if residence[offset] & 1 == 0 {
                    source[firstIndex + offset] = going & MigrationWord.migrate
                } else if let frame = liveFrame(page) {
                    source[firstIndex + offset] = present | going | UInt64(frame.raw)
                }
                if isSystemSelected { count += 1 }
            }
            collectedCount += count
        }
        if let failure { throw failure }
    }

    /// Of a page of which more is known than that it is at home.
    private func wordOfKnown(_ page: PageNumber, _ seen: LiveWord) throws(HMMError) -> UInt64 {
        var result: UInt64 = 0
        if seen.isAway { return awayWord(seen) }
        try LiveLook.forEach(page..<page.advanced(by: 1), in: mapping) { page, seen throws(HMMError) in
            result = try word(page, seen)
            return true
        }
        return result
    }

    /// Live frames of a segment are numbered one after the other.
    private func liveFrame(_ page: PageNumber) -> FrameNumber? {
        let order = FrameNumber.liveSegmentOrder
        if let known = lastLive, page.alignedDown(order: order) == known.page.alignedDown(order: order) {
            return known.frame + known.page.distance(to: page)
        }
        guard let frame = try? space.liveFrame(page) else { return nil }
        lastLive = (page, frame)
        return frame
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

    private func index(of page: PageNumber) -> Int { pages.lowerBound.distance(to: page) }

    /// The word of a page after setup: what it is, and whether it may go.
    private func word(_ page: PageNumber, _ seen: LiveLook.Page) throws(HMMError) -> UInt64 {
        if seen.word.isAway { return awayWord(seen.word) }
        let isOrdinary = mapping.isPrivateMemory && !seen.isFile
        if isOrdinary, !mapping.isFile, seen.isHole || seen.isZero {
            guard request.select.contains(.system), !seen.word.isReturned else { return 0 }
            collectedCount += 1
            return MigrationWord.migrate
        }
        guard seen.isPresent else { return 0 }
        let right = seen.isWritable ? HMMPageWord.write : 0
        let result = HMMPageWord.valid | right | UInt64(try space.liveFrame(page).raw)
        guard isOrdinary, isSelected(seen.word), !seen.word.isReturned else { return result }
        collectedCount += 1
        return result | MigrationWord.migrate | MigrationWord.held
    }

    /// Of a page that is present.
    private func isSelected(_ word: LiveWord) -> Bool {
        guard word.isCoherent else { return request.select.contains(.system) }
        return request.select.contains(.deviceCoherent) && isSource(word.frame)
    }

    private func awayWord(_ word: LiveWord) -> UInt64 {
        guard !word.isExclusive else { return 0 }
        let right = word.isReadOnly ? 0 : HMMPageWord.write
        let isOwn = request.ownMemory?.contains(word.frame) ?? false
        let isSelected = request.select.contains(.devicePrivate) && isSource(word.frame)
        guard isSelected else { return isOwn ? HMMPageWord.valid | right | UInt64(word.frame.raw) : 0 }
        collectedCount += 1
        return HMMPageWord.valid | right | MigrationWord.migrate | MigrationWord.held | UInt64(word.frame.raw)
    }

    private func isSource(_ frame: FrameNumber) -> Bool { request.sources.contains { $0.contains(frame) } }

    // MARK: Destinations

    func setDestination(_ frame: FrameNumber, at index: Int) {
        precondition(phase == .collected, "a destination is set between setup and commit")
        precondition(source[index] & MigrationWord.migrate != 0, "a destination for a page that does not migrate")
        precondition(destination[index] == 0, "a page has two destinations")
        destination[index] = UInt64(frame.raw) | HMMPageWord.valid
    }

    func copy(to memory: DeviceMemory?, evicting: Bool) {
        guard let memory else {
            isBoundForHome = true
            for index in 0..<pages.pageCount where wantsHome(index) {
                destination[index] = UInt64(home(of: page(index)).raw) | HMMPageWord.valid
            }
            return
        }
        var wanted = 0
        for index in 0..<pages.pageCount where wantsSlot(index, memory) { wanted += 1 }
        guard wanted > 0 else { return }
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: wanted) { new in
            var count = memory.allocateSingles(wanted, into: new.baseAddress!)
            if count < wanted, evicting {
                _ = space.evictLeastRecentlyUsed(of: memory, count: wanted - count)
                count += memory.allocateSingles(wanted - count, into: new.baseAddress! + count)
            }
            // Neighbours go with one call of the kernel.
            new[0..<count].sort()
            var used = 0
            for index in 0..<pages.pageCount where used < count && wantsSlot(index, memory) {
                destination[index] = UInt64(new[used].raw) | HMMPageWord.valid
                used += 1
            }
            missingDestinations += wanted - count
        }
    }

    private func home(of page: PageNumber) -> FrameNumber { (try? space.liveFrame(page)) ?? .none }

    private func wantsHome(_ index: Int) -> Bool {
        let word = source[index]
        guard word & MigrationWord.migrate != 0, word & MigrationWord.held != 0, destination[index] == 0 else {
            return false
        }
        return frames.deviceMemory(of: slot(index)) != nil
    }

    private func wantsSlot(_ index: Int, _ memory: DeviceMemory) -> Bool {
        let word = source[index]
        guard word & MigrationWord.migrate != 0, destination[index] == 0 else { return false }
        return word & MigrationWord.held == 0 || !memory.contains(slot(index))
    }

    /// The device's frame that the page is in now; the page itself for one of the system.
    private func slot(_ index: Int) -> FrameNumber {
        let frame = MigrationWord.frame(source[index])
        guard frame.isLive else { return frame }
        let word = LiveWord.load(page(index))
        return word.isCoherent ? word.frame : .none
    }

    // MARK: Commit

    func commit() {
        let invalidation = Invalidation.begin(space.notifiers, event)
        for index in 0..<pages.pageCount where source[index] & MigrationWord.migrate != 0 {
            if destination[index] == 0 { refuse(index) }
        }
        leaveDevices()
        if !isBoundForHome { enterDevice() }
        invalidation.end()
        phase = .committed
    }

    private func refuse(_ index: Int) { source[index] &= ~MigrationWord.migrate }

    /// What is in a device's memory comes home first, also on its way to another.
    private func leaveDevices() {
        var index = 0
        while index < pages.pageCount {
            guard isMigratingFromDevice(index) else {
                index += 1
                continue
            }
            var end = index + 1
            while end < pages.pageCount, isMigratingFromDevice(end) { end += 1 }
            leave(index..<end)
            index = end
        }
    }

    private func isMigratingFromDevice(_ index: Int) -> Bool {
        source[index] & MigrationWord.migrate != 0 && source[index] & MigrationWord.held != 0 && slot(index) != .none
    }

    private func leave(_ run: Range<Int>) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: run.count) { results in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: run.count) { slots in
                // A CPU or another device may come first: what came tells which slots are empty now.
                clive_bring(page(run.lowerBound).raw, run.count, results.baseAddress!, slots.baseAddress!)
                var moved = 0
                for index in run {
                    let frame = FrameNumber(slots[index - run.lowerBound])
                    if frame != .none {
                        space.giveBack(slot: frame)
                        moved += 1
                    } else if space.uncount(page(index), slot(index)) {
                        moved += 1
                    } else {
                        refuse(index)
                    }
                }
                guard isBoundForHome else { return }
                movedCount += moved
                space.machine.statistics.pagesToSystem.add(UInt64(moved))
            }
        }
    }

    /// Runs of neighbours with one right go together.
    private func enterDevice() {
        var index = 0
        while index < pages.pageCount {
            guard source[index] & MigrationWord.migrate != 0 else {
                index += 1
                continue
            }
            var end = index + 1
            while end < pages.pageCount, source[end] & MigrationWord.migrate != 0, bits(end) == bits(index) { end += 1 }
            enter(index..<end, bits(index))
            index = end
        }
    }

    /// A hole obeys the mapping, and comes home as a page; what was there obeys its entry.
    private func bits(_ index: Int) -> UInt64 {
        let isHole = source[index] & MigrationWord.held == 0
        let isWritable = isHole ? fillsWritable : source[index] & HMMPageWord.write != 0
        return (isWritable ? 0 : UInt64(CLIVE_READONLY)) | (isHole ? UInt64(CLIVE_FRESH) : 0)
    }

    private func enter(_ run: Range<Int>, _ bits: UInt64) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: run.count) { results in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: run.count) { slots in
                for index in run { slots[index - run.lowerBound] = MigrationWord.frame(destination[index]).raw }
                let isCoherent = !isMovable || frames.deviceMemory(of: FrameNumber(slots[0]))?.kind == .coherent
                let first = page(run.lowerBound)
                if isCoherent {
                    for index in run { results[index - run.lowerBound] = countIn(index) ? 0 : UInt8(EBUSY) }
                } else {
                    _ = clive_take(first.raw, slots.baseAddress!, run.count, bits, results.baseAddress!)
                }
                noteEntered(run, results)
            }
        }
    }

    private func noteEntered(_ run: Range<Int>, _ results: UnsafeMutableBufferPointer<UInt8>) {
        var entered = 0
        for index in run {
            guard results[index - run.lowerBound] == 0 else {
                refuse(index)
                continue
            }
            entered += 1
            if source[index] & MigrationWord.held == 0 { filledHoleCount += 1 } else { movedCount += 1 }
        }
        space.machine.statistics.pagesToDevice.add(UInt64(entered))
    }

    /// A page of device-coherent memory stays at its address: the CPU can address it there.
    private func countIn(_ index: Int) -> Bool {
        let page = page(index)
        let frame = MigrationWord.frame(destination[index])
        if source[index] & MigrationWord.held == 0 {
            // A hole is filled with the device's zeros, which are the CPU's.
            guard (try? space.faultIn(page..<page.advanced(by: 1), write: fillsWritable, in: mapping)) != nil else {
                return false
            }
        }
        guard let pointer = clive_word(page.raw) else { return false }
        let word = LiveWord.load(page)
        guard !word.isAway, !word.isReturned, !word.isCoherent else { return false }
        space.coherentPage(frame).pointee = page.raw
        let new = word.raw | UInt64(CLIVE_COHERENT) | UInt64(frame.raw) << UInt64(CLIVE_FRAME_SHIFT)
        guard clive_cas(pointer, word.raw, new) else {
            space.coherentPage(frame).pointee = 0
            return false
        }
        // What mirrors are told is the page itself, so the frame has no part in the rest.
        frames.unlockFolio(frame)
        destination[index] = UInt64(home(of: page).raw) | HMMPageWord.valid
        return true
    }

    // MARK: Finish

    func finish() {
        guard phase != .finished else { return }
        for index in 0..<pages.pageCount where destination[index] != 0 {
            let frame = MigrationWord.frame(destination[index])
            guard !frame.isLive else { continue }
            frames.unlockFolio(frame)
            let isUsed = phase == .committed && source[index] & MigrationWord.migrate != 0
            if !isUsed { frames.put(frame) }
        }
        phase = .finished
    }
}
