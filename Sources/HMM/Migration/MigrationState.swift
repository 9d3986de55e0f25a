/// The state of one migration: used by one thread.
///
/// Locks: mmap (the caller's, reading) > the folios of the pages (each by trylock) > reverse maps > PMD and PTE tables.
final class MigrationState: MigrationEngine {
    let space: AddressSpace
    let machine: Machine
    let frames: FrameTable
    let tables: PageTables
    let vma: VMA
    /// The mapping's properties, which nobody changes meanwhile.
    let mappingFlags: VMAFlags
    let request: MigrationRequest
    let sourceZones: ZoneSet
    /// Folios of 2 MiB go as one, where both sides can.
    let movesUnits: Bool
    /// Every huge leaf is split, whatever is selected, and other large folios stay, as in 6.12.
    let splitsHugeFolios: Bool

    var pages: PageRange
    private let capacity: Int
    let source: UnsafeMutablePointer<UInt64>
    let destination: UnsafeMutablePointer<UInt64>

    var phase = MigrationPhase.setup
    /// Pages whose folios are locked by this migration.
    var heldCount = 0
    var collectedCount = 0
    var movedCount = 0
    var filledHoleCount = 0
    var refusedUnits = false
    var copyFailures = 0
    var missingDestinations = 0
    /// A folio that could not be split: not tried again for each of its pages.
    var unsplittable = FrameNumber.none

    init(_ space: AddressSpace, _ pages: PageRange, _ request: MigrationRequest) throws(HMMError) {
        vma = try Self.validate(space, pages, request)
        mappingFlags = vma.flags
        self.space = space
        machine = space.machine
        frames = space.machine.frames
        tables = space.tables
        self.pages = pages
        self.request = request
        sourceZones = ZoneSet(request.sources)
        splitsHugeFolios = space.machine.profile.migrationSplitsHugeFolios
        movesUnits = request.select.contains(.compound) && !splitsHugeFolios
        capacity = pages.pageCount
        // Cleared before anything can fail: what is not collected must read as nothing (INV-MG-12).
        source = .allocate(capacity: capacity)
        source.initialize(repeating: 0, count: capacity)
        destination = .allocate(capacity: capacity)
        destination.initialize(repeating: 0, count: capacity)
        try collect()
    }

    deinit {
        precondition(phase == .finished || heldCount == 0, "a migration was dropped with pages in hand")
        source.deallocate()
        destination.deallocate()
    }

    private static func validate(
        _ space: AddressSpace, _ pages: PageRange, _ request: MigrationRequest
    ) throws(HMMError) -> VMA {
        guard !pages.isEmpty, pages.upperBound <= Geometry.endPage, let vma = space.vmas.find(pages.lowerBound) else {
            throw HMMError(.invalidArgument, "nothing is mapped where the migration begins")
        }
        guard !vma.isHugetlb, !vma.flags.contains(.special) else {
            throw HMMError(.invalidArgument, "hugetlb pages, and what is not memory, cannot migrate")
        }
        guard vma.pages.contains(pages) else {
            throw HMMError(.outOfRange, "a migration lies in one mapping")
        }
        if let frame = request.faultFrame, !space.frames.isDevicePrivate(frame) {
            throw HMMError(.invalidArgument, "a fault frame is a page of device-private memory")
        }
        return vma
    }

    /// The word at `index` without what the walk and the migration wrote: the driver's marks.
    @inline(__always)
    func clear(_ index: Int) { source[index] &= HMMPageWord.marksMask }

    var fillsWritable: Bool { vma.isWritable }

    /// The folio that the caller has locked, whose lock and reference are not ours.
    var faultHead: FrameNumber? { request.faultFrame.map { frames.head(of: $0) } }

    // MARK: Setup

    /// One walk of a range fault, which collects as it goes; then the entries that it did not meet.
    private func collect() throws(HMMError) {
        do throws(HMMError) {
            try walk()
        } catch {
            restoreAll()
            throw error
        }
        if heldCount > 0 { unmapCollected() }
        phase = .collected
    }

    private func walk() throws(HMMError) {
        let invalidation = space.beginInvalidation(.migrate, pages, owner: request.owner)
        var failure: HMMError?
        do throws(HMMError) { try walkNotified() } catch { failure = error }
        invalidation.end()
        if let failure { throw failure }
    }

    private func walkNotified() throws(HMMError) {
        var ownZones = sourceZones
        if let own = request.ownMemory { ownZones.insert(own) }
        var walk = RangeFaultWalk(
            space, pages, words: source, request: request.fault, ownZones: ownZones,
            collector: request.select.isMigration ? self : nil)
        while true {
            // Each turn was preceded by progress: a fault, a wait, or a split.
            if let interval = request.interval, interval.checkRetry(request.sequence) {
                throw HMMError(.busy, "an invalidation came in between")
            }
            switch try walk.walk() {
            case .next: return
            case .restart: continue
            case .stop:
                pages = pages.lowerBound..<walk.last
                return
            }
        }
    }

    /// Setup failed: everything is as before, and nothing is collected.
    private func restoreAll() {
        for index in 0..<pages.pageCount { source[index] &= ~MigrationWord.migrate }
        restoreRefused()
        for index in 0..<pages.pageCount { clear(index) }
        collectedCount = 0
        phase = .finished
    }
}
