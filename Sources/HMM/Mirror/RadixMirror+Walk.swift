import Synchronization

// Visits that change no translation: they take no directory lock where they only read or set unguarded bits.

extension RadixMirror {
    public func forEachRun(in pages: PageRange, _ body: (MirrorRun) -> Void) {
        guard let pages = pages.intersection(geometry.allPages) else { return }
        var pending: MirrorRun?
        visitLeaves(in: pages) { slot, leafPages, _ in
            let entry = MirrorEntry(word: slot.pointee.load(ordering: .acquiring))
            guard entry.isValid, let common = leafPages.intersection(pages) else { return }
            let head = entry.frame(deviceAddressOffset: configuration.deviceAddressOffset)
            let first = head + leafPages.lowerBound.distance(to: common.lowerBound)
            let run = MirrorRun(pages: common, entry: entry, firstFrame: first)
            if pending == nil || !pending!.absorb(run) {
                if let done = pending { body(done) }
                pending = run
            }
        }
        if let done = pending { body(done) }
    }

    public func harvestDirty(_ pages: PageRange) {
        guard let pages = pages.intersection(geometry.allPages) else { return }
        var update = MirrorUpdate()
        visitLeaves(in: pages) { slot, leafPages, _ in
            if update.isFull { flush(&update) }
            harvest(slot, covering: leafPages, &update)
        }
        flush(&update)
    }

    /// Takes the dirty bit of one leaf. It counts for every page of the leaf, also those outside the range asked for.
    private func harvest(
        _ slot: UnsafeMutablePointer<Atomic<UInt64>>, covering pages: PageRange, _ update: inout MirrorUpdate
    ) {
        var seen = slot.pointee.load(ordering: .relaxed)
        while true {
            let entry = MirrorEntry(word: seen)
            guard entry.isValid, entry.isDirty else { return }
            schedulingPoint(.update, on: UInt(bitPattern: slot))
            let result = slot.pointee.weakCompareExchange(
                expected: seen, desired: seen & ~MirrorEntry.dirtyBit, successOrdering: .acquiringAndReleasing,
                failureOrdering: .relaxed)
            if result.exchanged {
                if entry.isWritable { update.noteDirty(pages.lowerBound, count: pages.pageCount, entry: entry) }
                // The device may remember that the page is dirty already; and a write may be on its way.
                update.noteChanged(pages)
                return
            }
            seen = result.original
        }
    }

    /// Turns frame numbers into device addresses, in place: rights, dirty and driver bits stay.
    public func convertToDeviceAddresses(_ pages: PageRange) {
        guard let pages = pages.intersection(geometry.allPages) else { return }
        let offset = configuration.deviceAddressOffset
        var update = MirrorUpdate()
        visitLeaves(in: pages, locked: true) { slot, leafPages, _ in
            var seen = slot.pointee.load(ordering: .relaxed)
            while seen & MirrorEntry.validPFNBit != 0, seen & MirrorEntry.directoryBit == 0 {
                let new = MirrorEntry(word: seen).convertedToDeviceAddress(offset: offset).word
                let result = slot.pointee.weakCompareExchange(
                    expected: seen, desired: new, successOrdering: .releasing, failureOrdering: .relaxed)
                if result.exchanged {
                    update.noteChanged(leafPages)
                    break
                }
                seen = result.original
            }
        }
        flush(&update)
    }

    /// Calls `body` with each slot of a leaf that overlaps the range, in ascending order, each once (INV-MT-9).
    ///
    /// Holes are skipped with the span of the empty slot, not with that of its directory: historical code skipped a
    /// whole directory there. With `locked`, the directory's lock is held.
    @inline(__always)
    private func visitLeaves(
        in pages: PageRange, locked: Bool = false,
        _ body: (_ slot: UnsafeMutablePointer<Atomic<UInt64>>, _ pages: PageRange, _ level: Int) -> Void
    ) {
        gate.enter()
        defer { gate.leave() }
        var iterator = DirectoryIterator(tree)
        var position = pages.lowerBound
        while position < pages.upperBound {
            let spot = iterator.descend(to: position)
            if locked { pool.lock(spot.directory).pointee.lock() }
            let words = pool.entries(spot.directory)
            var index = MirrorGeometry.index(position, spot.level)
            while index < MirrorGeometry.entriesPerDirectory && position < pages.upperBound {
                let entry = MirrorEntry(word: words[index].load(ordering: .acquiring))
                if entry.isDirectory {
                    // Dying: empty. Alive: the next descent enters it.
                    guard tree.isDead(entry.directoryIndex) else { break }
                }
                let leafPages = MirrorGeometry.entryPages(position, spot.level)
                if entry.isValid { body(words + index, leafPages, spot.level) }
                position = leafPages.upperBound
                index += 1
            }
            if locked { pool.lock(spot.directory).pointee.unlock() }
        }
        iterator.finish()
    }
}
