import Synchronization

// Filling the table. Directories are allocated with no lock held; the lock of one directory is held while its entries
// are written.

extension RadixMirror {
    public func commit(_ runs: [MirrorRun]) throws(HMMError) {
        for run in runs { try check(run) }
        gate.enter()
        defer { gate.leave() }
        var update = MirrorUpdate()
        var iterator = DirectoryIterator(tree)
        var failure: HMMError?
        for run in runs where failure == nil {
            do throws(HMMError) {
                try store(run, &iterator, &update)
            } catch {
                failure = error
                // What was created for nothing goes at once.
                iterator.prunesAll = true
            }
        }
        iterator.finish()
        flush(&update)
        if let failure { throw failure }
    }

    private func check(_ run: MirrorRun) throws(HMMError) {
        guard geometry.allPages.contains(run.pages) else {
            throw HMMError(.invalidArgument, "a run outside the mirror")
        }
        guard !run.isAtomic || (run.order == 0 && run.isWritable) else {
            throw HMMError(.invalidArgument, "atomic mappings are writable and of 4 KiB")
        }
    }

    private func store(
        _ run: MirrorRun, _ iterator: inout DirectoryIterator, _ update: inout MirrorUpdate
    ) throws(HMMError) {
        var position = run.pages.lowerBound
        while position < run.pages.upperBound {
            let level = geometry.leafLevel(of: run, at: position)
            position = try storePiece(run, at: position, level: level, &iterator, &update)
            if update.isFull { flush(&update) }
        }
    }

    /// Stores the run from `position` on, as far as one directory goes. Returns where to go on.
    private func storePiece(
        _ run: MirrorRun, at position: PageNumber, level: Int, _ iterator: inout DirectoryIterator,
        _ update: inout MirrorUpdate
    ) throws(HMMError) -> PageNumber {
        if level > 0 { refillSpare() }
        let spot = try iterator.populate(to: position, target: level)
        if spot.level > level { return try storeUnderLeaf(run, at: position, spot, &update) }
        if level == 0 { return try fillPages(run, from: position, in: spot.directory, &update) }
        let next = position.advanced(by: MirrorGeometry.span(level))
        switch storeLeaf(run, at: position, in: spot, &update) {
        case .stored: return next
        case .conflict: throw inconsistency()
        case .directory:
            if promote(run, at: position, in: spot, &iterator, &update) { return next }
            // Smaller entries below; the rest of this leaf's span follows in the next turns.
            return try storePiece(run, at: position, level: level - 1, &iterator, &update)
        }
    }

    private enum Outcome { case stored, conflict, directory }

    /// The entry that a run has at a page, in the form that the entry already there has.
    private func word(of run: MirrorRun, at page: PageNumber, like old: MirrorEntry) -> MirrorEntry {
        let entry = run.entry(at: page, level: old.level)
        return old.isDeviceAddress
            ? entry.convertedToDeviceAddress(offset: configuration.deviceAddressOffset) : entry
    }

    private func inconsistency() -> HMMError {
        counters.inconsistentCommits.add(1, ordering: .relaxed)
        return HMMError(.inconsistent, "the mirror held another translation: an invalidation was missed")
    }

    /// Stores 4 KiB entries into one directory. Returns the first page behind them.
    private func fillPages(
        _ run: MirrorRun, from first: PageNumber, in directory: UInt32, _ update: inout MirrorUpdate
    ) throws(HMMError) -> PageNumber {
        let words = pool.entries(directory)
        let low = MirrorGeometry.index(first, 0)
        let number = min(MirrorGeometry.entriesPerDirectory - low, first.distance(to: run.pages.upperBound))
        var word = run.entry(at: first, level: 0).word
        var index = low
        var came = 0
        var outcome = Outcome.stored
        pool.lock(directory).pointee.lock()
        while index < low + number && !update.isFull {
            if words[index].load(ordering: .relaxed) == 0 {
                words[index].store(word, ordering: .releasing)
                came += 1
            } else {
                let page = first.advanced(by: index - low)
                outcome = merge(run, at: page, into: words + index, covering: page..<page.advanced(by: 1), &update)
                if outcome != .stored { break }
            }
            index += 1
            word &+= 1 << MirrorEntry.payloadShift
        }
        if came > 0 { tree.entriesCame(UInt32(came), in: directory) }
        if outcome == .conflict { tree.entriesLeft(1, in: directory) }
        pool.lock(directory).pointee.unlock()
        counters.addLeaves(outcome == .conflict ? came - 1 : came, level: 0)
        if outcome == .conflict { throw inconsistency() }
        return first.advanced(by: index - low)
    }

    /// Adds the rights of a run to a leaf that is already there, or drops the leaf if it is another translation.
    ///
    /// Driver bits and dirty stay. A plain run takes the atomic tag away, and the device must learn it. The caller
    /// holds the directory's lock, and takes a dropped entry off its count.
    private func merge(
        _ run: MirrorRun, at page: PageNumber, into slot: UnsafeMutablePointer<Atomic<UInt64>>,
        covering pages: PageRange, _ update: inout MirrorUpdate
    ) -> Outcome {
        var old = MirrorEntry(word: slot.pointee.load(ordering: .relaxed))
        let new = word(of: run, at: pages.lowerBound, like: old)
        guard (old.word ^ new.word) & MirrorEntry.translationMask == 0 else {
            _ = apply(.nothing, to: slot, covering: pages, &update)
            return .conflict
        }
        while true {
            let tagged = old.word & ~MirrorEntry.atomicBit
            let word = tagged | new.word & (MirrorEntry.writeBit | MirrorEntry.atomicBit)
            if word == old.word { return .stored }
            let result = slot.pointee.weakCompareExchange(
                expected: old.word, desired: word, successOrdering: .releasing, failureOrdering: .relaxed)
            if result.exchanged { break }
            old = MirrorEntry(word: result.original)
        }
        if old.isAtomic && !new.isAtomic { update.noteChanged(pages) }
        return .stored
    }

    /// Stores a huge leaf, unless there is a directory.
    private func storeLeaf(
        _ run: MirrorRun, at page: PageNumber, in spot: DirectoryIterator.Spot, _ update: inout MirrorUpdate
    ) -> Outcome {
        let slot = pool.entries(spot.directory) + MirrorGeometry.index(page, spot.level)
        pool.lock(spot.directory).pointee.lock()
        defer { pool.lock(spot.directory).pointee.unlock() }
        let old = MirrorEntry(word: slot.pointee.load(ordering: .relaxed))
        if old.isDirectory { return .directory }
        if !old.isValid {
            slot.pointee.store(run.entry(at: page, level: spot.level).word, ordering: .releasing)
            tree.entriesCame(1, in: spot.directory)
            counters.addLeaves(1, level: spot.level)
            return .stored
        }
        let outcome = merge(
            run, at: page, into: slot, covering: MirrorGeometry.entryPages(page, spot.level), &update)
        if outcome == .conflict {
            tree.entriesLeft(1, in: spot.directory)
            counters.addLeaves(-1, level: spot.level)
        }
        return outcome
    }

    /// Stores small entries where a larger leaf stands. With equal translation and rights there is nothing to do; for
    /// more rights than the leaf has it is demoted first, because the rest of it was not validated with them.
    private func storeUnderLeaf(
        _ run: MirrorRun, at position: PageNumber, _ spot: DirectoryIterator.Spot, _ update: inout MirrorUpdate
    ) throws(HMMError) -> PageNumber {
        let slot = pool.entries(spot.directory) + MirrorGeometry.index(position, spot.level)
        let pages = MirrorGeometry.entryPages(position, spot.level)
        let child = tree.allocate()
        var isChildUsed = false
        pool.lock(spot.directory).pointee.lock()
        defer {
            pool.lock(spot.directory).pointee.unlock()
            if child != DirectoryPool.none && !isChildUsed { pool.giveBack(child) }
        }
        let leaf = MirrorEntry(word: slot.pointee.load(ordering: .relaxed))
        // Another thread was here in between: look again.
        guard leaf.isValid else { return position }
        let own = leaf.frame(deviceAddressOffset: configuration.deviceAddressOffset)
        guard own + pages.lowerBound.distance(to: position) == run.frame(at: position), leaf.location == run.location
        else {
            _ = apply(.nothing, to: slot, covering: pages, &update)
            tree.entriesLeft(1, in: spot.directory)
            counters.addLeaves(-1, level: spot.level)
            throw inconsistency()
        }
        if !run.isAtomic && (leaf.isWritable || !run.isWritable) {
            return min(pages.upperBound, run.pages.upperBound)
        }
        guard child != DirectoryPool.none else {
            throw HMMError(.outOfMemory, "no memory for a directory of the mirror")
        }
        demote(slot, covering: pages, to: child, in: spot, &update)
        isChildUsed = true
        return position
    }
}
