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
    /// Pages that have one; all of them migrate.
    var slotCount = 0
    /// Some of those are counted where they are.
    var hasInPlace = false
    /// Pages that are at home, may be written and migrate, with nothing else to be known of them.
    var plainCount = 0
    /// Slots that were got as one folio, in the order of their pages.
    var units: [Unit] = []
    /// Pages that have a destination.
    var destinationCount = 0
    /// Some of them have a slot that is a folio of its own.
    var hasSingles = false
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
}
