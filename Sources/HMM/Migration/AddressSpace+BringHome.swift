// The way back for a CPU.

extension AddressSpace {
    // MARK: A CPU fault on a page of device-private memory

    /// Rounds in which a page may turn out to be held by somebody, before that is an error. Whoever looks at a folio by
    /// its frame holds it for an instant.
    private static let bringHomeRounds = 1_000

    /// What a `DevicePrivateFaultHandler` does: moves the page that a CPU faults on to system memory, with those around
    /// it that are in the same memory, as far as they can be had.
    ///
    /// The mmap lock is held for reading, and the folio of `frame` is locked and referenced, as the handler gets them.
    ///
    /// - Parameters:
    ///   - window: pages around it, a power of 2, that are moved along.
    ///   - map: called after commit, for the driver to drop what it has mapped.
    /// - Throws: `.outOfMemory`: there was no page to move to. `.noDevice`: the device could not copy. `.busy`:
    ///   somebody holds the page, and goes on doing so. It stays where it is.
    public func bringHome(
        _ page: PageNumber, _ frame: FrameNumber, from memory: DeviceMemory, owner: NotifierOwner? = nil,
        window: Int = 1, map: (borrowing Migration) throws(HMMError) -> Void = { _ in }
    ) throws(HMMError) {
        precondition(window > 0 && window & (window - 1) == 0, "a window is a power of 2")
        guard let vma = vmas.find(page) else { return }
        var request = MigrationRequest.toSystem(from: memory, owner: owner)
        request.faultFrame = frame
        var isAlone = false
        for round in 0..<Self.bringHomeRounds {
            let order = frames.order(ofHead: frames.head(of: frame))
            let around = vma.pages.intersection(
                isAlone ? page..<page.advanced(by: 1) : Self.window(window, around: page, order))!
            var outcome = (isHome: false, hadPlace: true, isCopied: true)
            try withMigration(around, request) { (migration: borrowing Migration) throws(HMMError) in
                migration.copyToSystem()
                let index = migration.pages.lowerBound.distance(to: page)
                outcome.hadPlace = migration.missingDestinations == 0
                outcome.isCopied = migration.copyFailures == 0
                migration.commit()
                outcome.isHome = migration.hasMoved(index)
                try map(migration)
            }
            if outcome.isHome || leaf(page)?.0.frame != frame { return }
            guard outcome.hadPlace || !isAlone else {
                throw HMMError(.outOfMemory, "no system memory for a page of a device")
            }
            guard outcome.isCopied || !isAlone else { throw HMMError(.noDevice, "a device cannot give a page back") }
            // What does not succeed with its neighbours may succeed without them.
            isAlone = true
            if round > 0 { SyncClock.sleep(nanoseconds: 1_000) }
        }
        throw HMMError(.busy, "a page of a device is held by others")
    }

    /// The aligned block of `count` pages around `page`, or the 2 MiB that it is a part of.
    private static func window(_ count: Int, around page: PageNumber, _ order: Int) -> PageRange {
        let order = max(order, count.trailingZeroBitCount)
        let first = page.alignedDown(order: order)
        return first..<first.advanced(by: 1 << order)
    }
}
