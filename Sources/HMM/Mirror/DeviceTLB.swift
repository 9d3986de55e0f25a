import Synchronization

/// The translations that a software device caches for one mirror, and its accesses in flight.
///
/// An access registers before it looks up a translation and leaves when its bytes have moved. A shootdown returns when
/// every translation older than the request is gone *and every access made through one has completed*: a write that is
/// on its way still reaches the old frame before the actor copies or frees it.
///
/// ```
/// device access                           invalidation
/// register (page, generation g)           entry := 0, fence
/// fence                                   generation += 1
/// look in the sets, else in the mirror    drop the range from the sets
/// fill only if the generation is still g  generation += 1
/// dirty, move bytes                       wait for registered accesses of the range that are older
/// unregister ─────────── wakes ─────────▶ return
/// ```
///
/// The first step of the generation keeps an access that has read an old entry from filling it in behind the purge; the
/// second tells accesses that found one before the purge from those that began after it.
///
/// An access waits for nothing while it is registered, except for a short lock; so a shootdown always ends.
public final class DeviceTLB: DeviceTranslationCache, @unchecked Sendable {
    private static let ways = 4
    /// Accesses at the same time; another one waits for a place.
    private static let flightLimit = 32
    private static let occupied: UInt64 = 1 << 63
    private static let pageShift: UInt64 = 27
    private static let generationMask: UInt64 = 1 << 27 - 1

    /// Guarded by the lock of its set.
    private struct Slot {
        var page: UInt64 = 0
        /// The word of the leaf's entry, with the payload of the leaf's first page; 0: empty.
        var word: UInt64 = 0
        /// The generation at the fill.
        var generation: UInt64 = 0
    }

    private let setCount: Int
    private let locks: UnsafeMutablePointer<SpinLock>
    private let slots: UnsafeMutablePointer<Slot>
    /// Bit 63: occupied; 27…62: page; 0…26: generation, modulo its size.
    private let flights: UnsafeMutablePointer<Atomic<UInt64>>
    private let generation = Atomic<UInt64>(0)
    private let sleepers = Atomic<Int>(0)
    private let hitCount = Atomic<Int>(0)
    private let missCount = Atomic<Int>(0)
    private let shootdownCount = Atomic<Int>(0)

    /// - Parameter setCount: a power of two; each set holds four translations.
    public init(setCount: Int = 64) {
        precondition(setCount > 0 && setCount & (setCount - 1) == 0, "the number of sets is a power of two")
        self.setCount = setCount
        locks = .allocate(capacity: setCount)
        for index in 0..<setCount { (locks + index).initialize(to: SpinLock(.leaf)) }
        slots = .allocate(capacity: setCount * Self.ways)
        slots.initialize(repeating: Slot(), count: setCount * Self.ways)
        flights = .allocate(capacity: Self.flightLimit)
        for index in 0..<Self.flightLimit { (flights + index).initialize(to: Atomic(0)) }
    }

    deinit {
        locks.deallocate()
        slots.deallocate()
        flights.deallocate()
    }

    public var hits: Int { hitCount.load(ordering: .relaxed) }
    public var misses: Int { missCount.load(ordering: .relaxed) }
    public var shootdowns: Int { shootdownCount.load(ordering: .relaxed) }
    /// Accesses that are registered at this moment.
    public var accessesInFlight: Int {
        (0..<Self.flightLimit).count { flights[$0].load(ordering: .relaxed) != 0 }
    }

    // MARK: Accesses

    /// One access of the device to one page: translates, marks the page dirty if it writes, and runs `body` with the
    /// entry of just this page, while the access is registered as in flight.
    ///
    /// Nil, with `body` not run, if there is no translation with enough rights: the device faults, and must not be
    /// registered while it waits for the fault. `body` must not wait for anything that an invalidation may hold.
    public func access<R>(
        _ page: PageNumber, _ kind: AccessKind, through table: some MirrorTable, _ body: (MirrorEntry) -> R
    ) -> R? {
        let (flight, begin) = register(page)
        defer { unregister(flight) }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        var entry = cached(page)
        if let known = entry, known.allows(kind), kind == .read || known.isDirty {
            hitCount.add(1, ordering: .relaxed)
            return body(known)
        }
        missCount.add(1, ordering: .relaxed)
        entry = table.lookup(page)
        guard let found = entry, found.allows(kind) else { return nil }
        guard kind > .read else {
            fill(found, at: page, begin)
            return body(found)
        }
        // Before the write: a harvest that comes first makes this fail, one that comes later reports the page.
        guard table.markDirty(page, through: found) else { return nil }
        let dirty = MirrorEntry(word: found.word | MirrorEntry.dirtyBit)
        fill(dirty, at: page, begin)
        return body(dirty)
    }

    private func register(_ page: PageNumber) -> (flight: Int, generation: UInt64) {
        while true {
            for offset in 0..<Self.flightLimit {
                let index = (Int(page.raw) + offset) % Self.flightLimit
                let flight = flights + index
                guard flight.pointee.load(ordering: .relaxed) == 0 else { continue }
                // Accesses count themselves in and out; only a shootdown looks who is in.
                schedulingPoint(.load, on: waitKey)
                let begin = generation.load(ordering: .sequentiallyConsistent)
                let word = Self.occupied | page.raw << Self.pageShift | begin & Self.generationMask
                if flight.pointee.compareExchange(expected: 0, desired: word, ordering: .sequentiallyConsistent)
                    .exchanged { return (index, begin) }
            }
            waitUntil { (0..<Self.flightLimit).contains { flights[$0].load(ordering: .relaxed) == 0 } }
        }
    }

    private func unregister(_ flight: Int) {
        schedulingPoint(.load, on: waitKey)
        flights[flight].store(0, ordering: .sequentiallyConsistent)
        if sleepers.load(ordering: .sequentiallyConsistent) != 0 { WaitQueue.wakeAll(waitKey) }
    }

    var waitKey: UInt { UInt(bitPattern: flights) }

    private func waitUntil(_ isDone: () -> Bool) {
        _ = sleepers.add(1, ordering: .sequentiallyConsistent)
        WaitQueue.wait(on: waitKey) { !isDone() }
        _ = sleepers.subtract(1, ordering: .sequentiallyConsistent)
    }

    // MARK: Sets

    /// Sets are chosen by the number of the leaf, so that a huge translation is in one place.
    private func set(of page: UInt64, level: Int) -> Int {
        Int(page >> UInt64(MirrorGeometry.order(level))) & (setCount - 1)
    }

    private func cached(_ page: PageNumber) -> MirrorEntry? {
        for level in 0...MirrorGeometry.highestLeafLevel {
            let base = page.alignedDown(order: MirrorGeometry.order(level)).raw
            let set = set(of: base, level: level)
            let found = locks[set].withLock { () -> UInt64 in
                for way in 0..<Self.ways {
                    let slot = slots[set * Self.ways + way]
                    if slot.page == base, slot.word != 0, MirrorEntry(word: slot.word).level == level {
                        return slot.word
                    }
                }
                return 0
            }
            if found != 0 { return MirrorEntry(word: found).advanced(by: Int(page.raw - base)) }
        }
        return nil
    }

    private func fill(_ entry: MirrorEntry, at page: PageNumber, _ begin: UInt64) {
        let base = page.alignedDown(order: entry.order).raw
        let set = set(of: base, level: entry.level)
        let word = entry.advanced(by: -Int(page.raw - base)).word
        locks[set].withLock {
            guard generation.load(ordering: .sequentiallyConsistent) == begin else { return }
            var victim = set * Self.ways
            for index in set * Self.ways..<(set + 1) * Self.ways {
                let isSame = slots[index].page == base && MirrorEntry(word: slots[index].word).level == entry.level
                if isSame || slots[index].word == 0 {
                    victim = index
                    break
                }
                if slots[index].generation < slots[victim].generation { victim = index }
            }
            slots[victim] = Slot(page: base, word: word, generation: begin)
        }
    }

    // MARK: Shootdown

    public func shootDown(_ shootdown: MirrorShootdown) {
        guard !shootdown.isEmpty else { return }
        shootdownCount.add(1, ordering: .relaxed)
        schedulingPoint(.update, on: waitKey)
        _ = generation.add(1, ordering: .sequentiallyConsistent)
        purge(shootdown)
        schedulingPoint(.update, on: waitKey)
        let limit = generation.add(1, ordering: .sequentiallyConsistent).newValue
        for index in 0..<Self.flightLimit where isInTheWay(index, shootdown, before: limit) {
            waitUntil { !isInTheWay(index, shootdown, before: limit) }
        }
    }

    /// Whether this place holds an access of the range that began before a generation.
    private func isInTheWay(_ index: Int, _ shootdown: MirrorShootdown, before limit: UInt64) -> Bool {
        let word = flights[index].load(ordering: .sequentiallyConsistent)
        guard word & Self.occupied != 0 else { return false }
        let page = PageNumber((word & ~Self.occupied) >> Self.pageShift)
        guard shootdown.overlaps(page..<page.advanced(by: 1)) else { return false }
        // Modulo arithmetic: an access lives for far less than half the generations.
        let age = (limit &- word) & Self.generationMask
        return age != 0 && age < Self.generationMask / 2
    }

    /// Drops what overlaps: a single page from its own sets, more from all.
    private func purge(_ shootdown: MirrorShootdown) {
        if !shootdown.isFull && shootdown.count == 1 && shootdown[0].pageCount == 1 {
            let page = shootdown[0].lowerBound.raw
            for level in 0...MirrorGeometry.highestLeafLevel { purge(set: set(of: page, level: level), shootdown) }
            return
        }
        for set in 0..<setCount { purge(set: set, shootdown) }
    }

    private func purge(set: Int, _ shootdown: MirrorShootdown) {
        locks[set].withLock {
            for index in set * Self.ways..<(set + 1) * Self.ways where slots[index].word != 0 {
                let first = PageNumber(slots[index].page)
                let last = first.advanced(by: 1 << MirrorEntry(word: slots[index].word).order)
                if shootdown.overlaps(first..<last) { slots[index] = Slot() }
            }
        }
    }

    /// Translations that are cached, for checks: each must be in the table with at least these rights.
    func forEachTranslation(_ body: (PageRange, MirrorEntry) -> Void) {
        for index in 0..<setCount * Self.ways where slots[index].word != 0 {
            let entry = MirrorEntry(word: slots[index].word)
            let first = PageNumber(slots[index].page)
            body(first..<first.advanced(by: 1 << entry.order), entry)
        }
    }
}
