/// The device's view of one address space, whoever owns the entries.
///
/// Three implementations answer alike: `RadixMirror` (the default), `FlatMirror` (a sorted list, for small tables) and
/// `DriverMirror` (the driver keeps the entries in a format of its own).
///
/// A mirror holds no reference to any frame: an entry is true only as long as the notifier protocol keeps it so. The
/// caller holds the driver lock across `readRetry` and `commit`, and the invalidation callback holds it across
/// `invalidate`; that excludes a commit of pages that are being invalidated. The tables themselves stand any mix of
/// calls from any threads.
///
/// Every call that takes rights away keeps one order: entries are exchanged and their dirty bits collected, the
/// device's translations are shot down and waited for, dirty pages are reported, and only then it returns.
public protocol MirrorTable: AnyObject, Sendable {
    /// Stores validated runs, and only adds rights to what is there already; a plain run over an atomic entry takes the
    /// atomic tag away.
    ///
    /// On an error, what was stored before it stays: it was validated. A page that still holds another translation
    /// means that an invalidation was missed: the stale entry is dropped, and the call fails with `.inconsistent`.
    func commit(_ runs: [MirrorRun]) throws(HMMError)

    /// Takes rights away: afterwards no entry of the range has a bit outside the mask, no translation of the device
    /// either, and no access through an old one is in flight (INV-MT-5).
    ///
    /// Allocates nothing. Answers false, with nothing changed, if it may not block and would have to.
    func invalidate(_ pages: PageRange, keeping mask: MirrorKeepMask, isBlockable: Bool) -> Bool

    /// The entry that covers a page, with the payload of just this page; nil if there is none.
    func lookup(_ page: PageNumber) -> MirrorEntry?

    /// Sets the dirty bit of a page, if its entry is still the translation that the device holds, and writable.
    ///
    /// A device calls this, while its access is registered as in flight, *before* it writes: the harvest that follows
    /// then either sees the bit or has made the answer false. On false the access faults.
    func markDirty(_ page: PageNumber, through translation: MirrorEntry) -> Bool

    /// Takes the dirty bits of a range and reports them, leaving the entries valid.
    func harvestDirty(_ pages: PageRange)

    /// Every maximal run of valid entries in the range, in ascending order. A run keeps the order of its leaves, also
    /// where the range cuts one.
    func forEachRun(in pages: PageRange, _ body: (MirrorRun) -> Void)

    var statistics: MirrorStatistics { get }

    /// Recounts everything; one line for each thing that does not hold. The mirror must be at rest.
    func checkInvariants() -> [String]
}

extension MirrorTable {
    /// Stores one run.
    public func commit(_ run: MirrorRun) throws(HMMError) { try commit([run]) }
}

/// What a mirror contains, and what happened to it.
public struct MirrorStatistics: Hashable, Sendable {
    /// Pages of 4 KiB that have a valid entry, whatever its size.
    public var mappedPages = 0
    /// Leaves larger than 4 KiB.
    public var hugeEntries = 0
    /// Linked directories, the root included.
    public var directories = 0
    /// Bytes of the table: directories and what lies beside them.
    public var bytes = 0
    /// Bytes kept for later: the spare, and directories that are empty but linked (also in `bytes`) or free.
    public var reserveBytes = 0
    public var directoriesAllocated = 0
    public var directoriesPruned = 0
    public var promotions = 0
    public var demotions = 0
    /// Huge leaves that lost all their rights for a part of them, because there was no spare directory.
    public var wholeLeafDrops = 0
    /// Commits that met another translation: each is a missed invalidation.
    public var inconsistentCommits = 0
    /// Attempts of the device to set dirty where it may not write.
    public var dirtyWithoutWrite = 0

    public init() {}
}

/// Caches of translations in the device.
public protocol DeviceTranslationCache: AnyObject, Sendable {
    /// Drops every translation in the ranges, and returns once each access that uses an older one has completed.
    ///
    /// May wait for the device, never for anything that the actor of an invalidation holds.
    func shootDown(_ shootdown: MirrorShootdown)
}

/// Where the changes of a mirror take effect.
public struct MirrorEffects: Sendable {
    let translationCache: (any DeviceTranslationCache)?
    let reportDirty: (@Sendable (MirrorRun) -> Void)?

    /// - Parameters:
    ///   - translationCache: the caches to be shot down, or nil if the device has none.
    ///   - reportDirty: called with each run that the device wrote to; must mark the folios dirty before it returns,
    ///     because the actor may free or clean them next.
    public init(
        translationCache: (any DeviceTranslationCache)? = nil, reportDirty: (@Sendable (MirrorRun) -> Void)? = nil
    ) {
        self.translationCache = translationCache
        self.reportDirty = reportDirty
    }
}

/// Decides whether the next allocation of a mirror succeeds.
public typealias MirrorAllocationHook = @Sendable () -> Bool
