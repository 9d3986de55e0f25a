// Migration of the reference driver, both ways.
//
// Kernel: lib/test_hmm.c dmirror_migrate_to_device, dmirror_migrate_to_system, dmirror_devmem_fault (6.12).
// Lock order: mmap > folios of the migration > `mutex`.

extension DmirrorMirror {
    /// What a migration to the device answers: the pages that were read back, and those that moved or were filled.
    public typealias MigrateAnswer = (pages: Int, moved: Int)

    /// Moves the pages to the device's memory and reads them back through the mirror.
    ///
    /// Errors: EINVAL for a chunk that begins in no readable mapping, or in one of hugetlb pages (earlier chunks stay
    /// moved). With the wart W4, ENOENT when some page has no entry afterwards, whatever moved; without it, pages that
    /// stayed are read as a device read would.
    public func migrate(
        _ pages: PageRange, into words: UnsafeMutableBufferPointer<UInt64>
    ) throws(HMMError) -> MigrateAnswer {
        try validate(pages, room: words.count)
        try requireSpace()
        var moved = 0
        let request = MigrationRequest.toDevice(device.memory, owner: owner)
        try forEachChunk(pages) { chunk throws(HMMError) in
            try migrateOwn(chunk, request) { migration throws(HMMError) in
                migration.copyToDevice(device.memory, evicting: !device.warts.contains(.migrateAnswersByTable))
                migration.commit()
                moved += migration.movedCount + migration.filledHoleCount
                try mapMoved(migration)
            }
        }
        if device.warts.contains(.migrateAnswersByTable) {
            return (try readBack(pages, into: words), moved)
        }
        return (try read(pages, into: words).pages, moved)
    }

    /// Moves the pages back to system memory. Answers how many moved.
    public func evict(_ pages: PageRange) throws(HMMError) -> Int {
        try validate(pages)
        try requireSpace()
        var moved = 0
        let request = MigrationRequest.toSystem(from: device.memory, owner: owner)
        try forEachChunk(pages) { chunk throws(HMMError) in
            try migrateOwn(chunk, request) { migration throws(HMMError) in
                forgetCollected(migration)
                migration.copyToSystem()
                migration.commit()
                moved += migration.movedCount
            }
        }
        return moved
    }

    /// A CPU faults on a page of the device, whose folio the caller has locked and referenced: this page goes home.
    func bringHome(_ page: PageNumber, _ frame: FrameNumber, in space: AddressSpace) throws(HMMError) {
        let ticket = mutex.withLock { migrations.beginLocked(page..<page.advanced(by: 1)) }
        defer { mutex.withLock { migrations.endLocked(ticket) } }
        try space.bringHome(page, frame, from: device.memory, owner: owner) { migration throws(HMMError) in
            forgetCollected(migration)
        }
    }

    /// Reads the whole range from the table. Errors: ENOENT when a page has no entry.
    func readBack(_ pages: PageRange, into words: UnsafeMutableBufferPointer<UInt64>) throws(HMMError) -> Int {
        let count = copy(from: pages, startingAt: 0, into: words)
        guard count == pages.pageCount else { throw HMMError(.noEntry, "a page of the range has no entry") }
        return count
    }

    // MARK: Chunks

    /// Calls `body` for chunks of at most 64 pages, cut at the ends of mappings, with the mmap lock held for reading.
    private func forEachChunk(
        _ pages: PageRange, _ body: (PageRange) throws(HMMError) -> Void
    ) throws(HMMError) {
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        var first = pages.lowerBound
        while first < pages.upperBound {
            guard let mapping = space.mapping(endingAfter: first), mapping.pages.contains(first),
                mapping.protection.contains(.read)
            else { throw HMMError(.invalidArgument, "a part of the range lies in no readable mapping") }
            let end = min(first.advanced(by: Self.chunkPages), pages.upperBound, mapping.pages.upperBound)
            try body(first..<end)
            first = end
        }
    }

    /// Migrates a chunk as this mirror's own migration: its other threads neither use nor commit pages of it meanwhile.
    private func migrateOwn(
        _ chunk: PageRange, _ request: MigrationRequest,
        _ body: (borrowing Migration) throws(HMMError) -> Void
    ) throws(HMMError) {
        let ticket = mutex.withLock {
            moves.begin(chunk)
            return migrations.beginLocked(chunk)
        }
        defer {
            mutex.withLock {
                moves.end()
                migrations.endLocked(ticket)
            }
        }
        // An invalidation that began before this move was noted is waited for: it may take pages away at any time until
        // it ends. Safe with the mmap lock held, because whoever has one open owns all the locks that it needs.
        _ = interval.readBegin()
        var first = chunk.lowerBound
        while first < chunk.upperBound {
            var end = first
            try space.withMigration(first..<chunk.upperBound, request) { migration throws(HMMError) in
                end = migration.pages.upperBound
                try body(migration)
            }
            first = end
        }
    }

    /// Maps what moved, while it is still locked. Unless another thread took some of it away meanwhile: folio locks do
    /// not keep a zap out, and an entry that is stored after its invalidation names a page that is about to be freed.
    /// Those pages are faulted in when the device needs them.
    ///
    /// Differs from Linux: dmirror_migrate_finalize_and_map (6.12) stores whatever moved.
    private func mapMoved(_ migration: borrowing Migration) throws(HMMError) {
        var runs: [MirrorRun] = []
        migration.forEachMovedRun { run in
            runs.append(MirrorRun(pages: run.pages, firstFrame: run.firstFrame, isWritable: run.isWritable))
        }
        mutex.lock()
        defer { mutex.unlock() }
        do throws(HMMError) {
            if moves.isSound { return try table.commit(runs) }
        } catch {
            forget(runs)
            throw error
        }
        forget(runs)
    }

    /// The own event left the entries of these pages, which name the frames that they moved from. Caller holds `mutex`.
    private func forget(_ runs: [MirrorRun]) {
        for run in runs {
            let isErased = table.invalidate(run.pages, keeping: .nothing, isBlockable: true)
            precondition(isErased, "a table that may be waited for refused")
        }
    }

    /// A CPU took the page home by itself: its entry goes, those around it stay.
    package func forgetPage(_ page: PageNumber) {
        mutex.withLock {
            let isErased = table.invalidate(page..<page.advanced(by: 1), keeping: .nothing, isBlockable: true)
            precondition(isErased, "a table that may be waited for refused")
        }
    }

    /// Erases the entries of pages that are about to leave the device; those around them stay.
    private func forgetCollected(_ migration: borrowing Migration) {
        mutex.lock()
        defer { mutex.unlock() }
        for index in 0..<migration.pages.pageCount where migration[index].isMigrating && migration[index].hasFrame {
            let page = migration.pages.lowerBound.advanced(by: index)
            let isErased = table.invalidate(
                page..<page.advanced(by: 1), keeping: .nothing, isBlockable: true)
            precondition(isErased, "a table that may be waited for refused")
        }
    }
}

/// The moves that threads of one mirror are making, and whether somebody else's invalidation touched their pages since
/// they began. A thread makes one at a time, and its own invalidations (a split, the reverse map) do not count.
struct OwnMoves {
    private var running: ContiguousArray<(thread: UInt, pages: PageRange, isSound: Bool)> = []

    mutating func begin(_ pages: PageRange) { running.append((SyncThread.identity, pages, true)) }
    mutating func end() { running.removeAll { $0.thread == SyncThread.identity } }

    /// Pages were invalidated by the calling thread.
    mutating func note(_ pages: PageRange) {
        for index in running.indices where running[index].thread != SyncThread.identity {
            if running[index].pages.overlaps(pages) { running[index].isSound = false }
        }
    }

    /// Whether nobody else touched the pages of the calling thread's move.
    var isSound: Bool { running.contains { $0.thread == SyncThread.identity && $0.isSound } }
}
