/// How far a migration is.
package enum MigrationPhase { case setup, collected, committed, finished }

/// What runs a migration: the page tables of the model, or those of the running process. `Migration` is what drivers
/// see of it.
///
/// Both keep the same two words a page, so that what a driver asks is answered from flat memory whoever runs it.
package protocol MigrationEngine: AnyObject {
    /// The part of what was asked for that is covered.
    var pages: PageRange { get }
    /// `MigrationPage` words, by page: results of the walk, and what is collected.
    var source: UnsafeMutablePointer<UInt64> { get }
    /// Frames that pages go to, by page; 0 for none.
    var destination: UnsafeMutablePointer<UInt64> { get }
    var phase: MigrationPhase { get }
    /// What a hole was filled with may be written: the mapping says so.
    var fillsWritable: Bool { get }
    var collectedCount: Int { get }
    var movedCount: Int { get }
    var filledHoleCount: Int { get }
    var refusedUnits: Bool { get }
    var copyFailures: Int { get }
    var missingDestinations: Int { get }

    func setDestination(_ frame: FrameNumber, at index: Int)
    /// Copies what is collected to a device, or, for nil, what is on one to system memory.
    func copy(to memory: DeviceMemory?, evicting: Bool)
    func commit()
    /// Runs once, whatever came before.
    func finish()
}

extension MigrationEngine {
    package func requirePhase(_ expected: MigrationPhase) {
        precondition(phase == expected, "a step of a migration out of order")
    }

    @inline(__always)
    package func page(_ index: Int) -> PageNumber { pages.lowerBound.advanced(by: index) }
    // MARK: Runs for mirrors

    func hasMoved(_ index: Int) -> Bool { runs.hasMoved(index) }
    func forEachMovedRun(_ body: (HMMRun) -> Void) { runs.forEachMoved(body) }
    func forEachResidentRun(_ body: (HMMRun) -> Void) {
        if movedCount + filledHoleCount < pages.pageCount { runs.forEachResident(body) }
    }

    private var runs: MigrationRuns {
        MigrationRuns(pages: pages, source: source, destination: destination, fillsWritable: fillsWritable)
    }
}

/// What moved and what stayed, as maximal runs. Over the words alone, whoever runs the migration.
private struct MigrationRuns {
    let pages: PageRange
    let source: UnsafeMutablePointer<UInt64>
    let destination: UnsafeMutablePointer<UInt64>
    let fillsWritable: Bool

    func hasMoved(_ index: Int) -> Bool {
        let unit = pages.lowerBound.advanced(by: index).alignedDown(order: Geometry.pmdOrder)
        let head = max(0, pages.lowerBound.distance(to: unit))
        let isInUnit = source[head] & MigrationWord.compound != 0
        return source[isInUnit ? head : index] & MigrationWord.migrate != 0
    }

    func forEachMoved(_ body: (HMMRun) -> Void) {
        forEach(body) { index in
            let word = source[index]
            guard word & MigrationWord.migrate != 0 else { return nil }
            let isHole = word & MigrationWord.held == 0
            // What a hole was filled with obeys the mapping; what was moved obeys its entry.
            let isWritable = isHole ? fillsWritable : word & HMMPageWord.write != 0
            let order = word & MigrationWord.compound == 0 ? 0 : Geometry.pmdOrder
            return (MigrationWord.frame(destination[index]), isWritable, order)
        }
    }

    func forEachResident(_ body: (HMMRun) -> Void) {
        forEach(body) { index in
            let word = source[index]
            guard word & (MigrationWord.flags | HMMPageWord.valid) == HMMPageWord.valid else { return nil }
            let result = HMMPageResult(rawValue: word)
            return (result.frame, result.isWritable, result.order)
        }
    }

    @inline(__always)
    private func forEach(
        _ body: (HMMRun) -> Void, _ page: (Int) -> (frame: FrameNumber, isWritable: Bool, order: Int)?
    ) {
        var index = 0
        let pageCount = pages.pageCount
        while index < pageCount {
            guard let first = page(index) else {
                index += 1
                continue
            }
            let isUnit = source[index] & MigrationWord.compound != 0
            var count = isUnit ? 1 << Geometry.pmdOrder : 1
            while !isUnit, index + count < pageCount, let next = page(index + count),
                source[index + count] & MigrationWord.compound == 0, next.frame == first.frame + count,
                next.isWritable == first.isWritable, next.order == first.order
            {
                count += 1
            }
            let start = pages.lowerBound.advanced(by: index)
            body(
                HMMRun(
                    pages: start..<start.advanced(by: count), firstFrame: first.frame, isWritable: first.isWritable,
                    order: first.order))
            index += count
        }
    }
}
