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
    let space: LiveSpace
    let frames: FrameTable
    let mapping: LiveMapping
    let request: MigrationRequest

    let pages: PageRange
    let source: UnsafeMutablePointer<UInt64>
    let destination: UnsafeMutablePointer<UInt64>
    /// By page: the frame of a device's memory that it is in or counted to, 0 for none.
    let slots: UnsafeMutablePointer<UInt32>
    var phase = MigrationPhase.setup
    var fillsWritable: Bool { mapping.protection.contains(.write) }
    var collectedCount = 0
    var movedCount = 0
    var filledHoleCount = 0
    /// The kernel moves whole huge pages where it can, and splits them where it must.
    var refusedUnits: Bool { false }
    /// A kernel that moves pages does not lose them on the way.
    var copyFailures: Int { 0 }
    var missingDestinations = 0
    /// A device that is full gives up what it has not used for longest.
    var isEvicting = false
    /// Where pages go that have no destination in a device: home.
    var isBoundForHome = false
    /// Pages can be taken out of the mapping. Private pages of a file mapping cannot: userfaultfd does not answer for
    /// them, so they are the device's where they are.
    var isMovable = false
    /// Whether what is known of pages that are away is true of this mapping; nil: nobody has asked.
    var isAwayKnown: Bool?
    var lastLive: (page: PageNumber, frame: FrameNumber)?

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
        slots = .allocate(capacity: count)
        slots.initialize(repeating: 0, count: count)
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
        slots.deallocate()
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

    func page(_ index: Int) -> PageNumber { pages.lowerBound.advanced(by: index) }
    func index(of page: PageNumber) -> Int { pages.lowerBound.distance(to: page) }
    func refuse(_ index: Int) { source[index] &= ~MigrationWord.migrate }

    var event: InvalidationRange { InvalidationRange(.migrate, pages, owner: request.owner) }

    /// Live frames of a segment are numbered one after the other.
    func liveFrame(_ page: PageNumber) throws(HMMError) -> FrameNumber {
        let order = FrameNumber.liveSegmentOrder
        if let known = lastLive, page.alignedDown(order: order) == known.page.alignedDown(order: order) {
            return known.frame + known.page.distance(to: page)
        }
        let frame = try space.liveFrame(page)
        lastLive = (page, frame)
        return frame
    }

    // MARK: Destinations

    func setDestination(_ frame: FrameNumber, at index: Int) {
        precondition(phase == .collected, "a destination is set between setup and commit")
        precondition(source[index] & MigrationWord.migrate != 0, "a destination for a page that does not migrate")
        precondition(destination[index] == 0, "a page has two destinations")
        destination[index] = UInt64(frame.raw) | HMMPageWord.valid
    }

    func copy(to memory: DeviceMemory?, evicting: Bool) {
        isEvicting = evicting
        if let memory { bindForDevice(memory, evicting: evicting) } else { bindForHome() }
    }

    private func bindForHome() {
        isBoundForHome = true
        for index in 0..<pages.pageCount where slots[index] != 0 && destination[index] == 0 {
            guard source[index] & MigrationWord.migrate != 0, let home = try? liveFrame(page(index)) else { continue }
            destination[index] = UInt64(home.raw) | HMMPageWord.valid
        }
    }

    private func bindForDevice(_ memory: DeviceMemory, evicting: Bool) {
        let wanted = countWanted(memory)
        guard wanted > 0 else { return }
        withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: wanted) { new in
            var count = allocate(wanted, from: memory, into: new.baseAddress!)
            if count < wanted, evicting {
                _ = space.evictLeastRecentlyUsed(of: memory, count: wanted - count)
                count += memory.allocateSingles(wanted - count, into: new.baseAddress! + count)
            }
            UnsafeMutableBufferPointer(rebasing: new[0..<count]).sortByNumber()
            var used = 0
            for index in 0..<pages.pageCount where used < count && wantsSlot(index, memory) {
                destination[index] = UInt64(new[used].raw) | HMMPageWord.valid
                used += 1
            }
            missingDestinations += wanted - count
        }
    }

    /// A whole table's pages get slots side by side, so that a huge page goes in one piece.
    private func allocate(
        _ wanted: Int, from memory: DeviceMemory, into new: UnsafeMutablePointer<FrameNumber>
    ) -> Int {
        let order = Geometry.pmdOrder
        let isWhole = wanted == 1 << order && pages.lowerBound.isAligned(order: order) && pages.pageCount == wanted
        if isWhole, memory.allocateNeighbours(order: order, into: new) { return wanted }
        return memory.allocateSingles(wanted, into: new)
    }

    private func countWanted(_ memory: DeviceMemory) -> Int {
        var wanted = 0
        for index in 0..<pages.pageCount where wantsSlot(index, memory) { wanted += 1 }
        return wanted
    }

    @inline(__always)
    private func wantsSlot(_ index: Int, _ memory: DeviceMemory) -> Bool {
        guard source[index] & MigrationWord.migrate != 0, destination[index] == 0 else { return false }
        return slots[index] == 0 || !memory.contains(FrameNumber(slots[index]))
    }

    // MARK: Finish

    func finish() {
        guard phase != .finished else { return }
        let isCommitted = phase == .committed
        for index in 0..<pages.pageCount where destination[index] != 0 {
            let frame = MigrationWord.frame(destination[index])
            guard !frame.isLive else { continue }
            frames.unlockFolio(frame)
            if !isCommitted || source[index] & MigrationWord.migrate == 0 { frames.put(frame) }
        }
        phase = .finished
    }
}
