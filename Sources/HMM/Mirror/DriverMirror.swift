import Synchronization

/// A driver that keeps the mirrored entries itself, in the format of its hardware.
///
/// One call per maximal run, never one per page. The calls come in the order and under the locks that `MirrorTable`
/// describes; the driver guards its own table.
public protocol MirrorTableDriver: AnyObject, Sendable {
    /// Stores one run: adds rights, takes the atomic tag away where the run has none. Answers whether an entry lost
    /// its tag. Throws `.inconsistent` after dropping an entry with another translation.
    func storeEntries(_ run: MirrorRun) throws(HMMError) -> Bool

    /// Applies the mask to every entry of the range, and calls `dirty` with each dirty run that it collected in the
    /// same step. Allocates nothing. Answers false, with nothing changed, if it may not block and would have to.
    func removeRights(
        _ pages: PageRange, keeping mask: MirrorKeepMask, isBlockable: Bool, dirty: (MirrorRun) -> Void
    ) -> Bool

    /// Takes the dirty bits of the range, leaving the entries valid.
    func takeDirty(_ pages: PageRange, dirty: (MirrorRun) -> Void)

    /// The entry that covers a page, with the payload of just this page.
    func entry(of page: PageNumber) -> MirrorEntry?

    /// As `MirrorTable.markDirty`.
    func setDirty(_ page: PageNumber, through translation: MirrorEntry) -> Bool

    /// Every valid entry of the range, in ascending order.
    func forEachEntry(in pages: PageRange, _ body: (MirrorRun) -> Void)
}

/// A mirror whose entries the driver owns.
///
/// Adds what every mirror owes: maximal runs, the order of an update, statistics.
public final class DriverMirror: MirrorTable {
    private let driver: any MirrorTableDriver
    private let effects: MirrorEffects
    private let inconsistentCommits = Atomic<Int>(0)
    private let dirtyWithoutWrite = Atomic<Int>(0)

    public init(_ driver: any MirrorTableDriver, effects: MirrorEffects = .init()) {
        self.driver = driver
        self.effects = effects
    }

    public func commit(_ runs: [MirrorRun]) throws(HMMError) {
        for run in runs {
            guard !run.isAtomic || (run.order == 0 && run.isWritable) else {
                throw HMMError(.invalidArgument, "atomic mappings are writable and of 4 KiB")
            }
            do throws(HMMError) {
                if try driver.storeEntries(run) { shootDown(run.pages) }
            } catch {
                if error == HMMError(.inconsistent) {
                    inconsistentCommits.add(1, ordering: .relaxed)
                    shootDown(run.pages)
                }
                throw error
            }
        }
    }

    public func invalidate(_ pages: PageRange, keeping mask: MirrorKeepMask, isBlockable: Bool) -> Bool {
        guard !mask.keepsEverything, !pages.isEmpty else { return true }
        var update = MirrorUpdate()
        let isDone = driver.removeRights(pages, keeping: mask, isBlockable: isBlockable) { run in
            note(run, pages, &update)
        }
        guard isDone else { return false }
        update.noteChanged(pages)
        update.flush(to: effects)
        return true
    }

    public func harvestDirty(_ pages: PageRange) {
        var update = MirrorUpdate()
        driver.takeDirty(pages) { note($0, pages, &update) }
        update.flush(to: effects)
    }

    /// The entries of the run have changed already: a full update is flushed at once.
    private func note(_ run: MirrorRun, _ pages: PageRange, _ update: inout MirrorUpdate) {
        update.noteChanged(pages)
        update.noteDirty(
            run.pages.lowerBound, count: run.pages.pageCount, entry: run.entry(at: run.pages.lowerBound, level: 0))
        if update.isFull { update.flush(to: effects) }
    }

    private func shootDown(_ pages: PageRange) {
        var update = MirrorUpdate()
        update.noteChanged(pages)
        update.flush(to: effects)
    }

    public func lookup(_ page: PageNumber) -> MirrorEntry? { driver.entry(of: page) }

    public func markDirty(_ page: PageNumber, through translation: MirrorEntry) -> Bool {
        guard translation.isWritable else {
            dirtyWithoutWrite.add(1, ordering: .relaxed)
            return false
        }
        return driver.setDirty(page, through: translation)
    }

    public func forEachRun(in pages: PageRange, _ body: (MirrorRun) -> Void) {
        var pending: MirrorRun?
        driver.forEachEntry(in: pages) { run in
            if pending == nil || !pending!.absorb(run) {
                if let done = pending { body(done) }
                pending = run
            }
        }
        if let done = pending { body(done) }
    }

    /// Pages, counted by asking the driver; it alone knows its bytes.
    public var statistics: MirrorStatistics {
        var result = MirrorStatistics()
        driver.forEachEntry(in: PageNumber(0)..<Geometry.endPage) { result.mappedPages += $0.pages.pageCount }
        result.inconsistentCommits = inconsistentCommits.load(ordering: .relaxed)
        result.dirtyWithoutWrite = dirtyWithoutWrite.load(ordering: .relaxed)
        return result
    }

    public func checkInvariants() -> [String] {
        var found: [String] = []
        var last = PageNumber(0)
        forEachRun(in: PageNumber(0)..<Geometry.endPage) { run in
            if run.pages.isEmpty || run.pages.lowerBound < last {
                found.append("INV-MT-9: the run of \(run.pages.lowerBound) does not ascend")
            }
            last = run.pages.upperBound
        }
        return found
    }
}
