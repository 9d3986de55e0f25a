import Synchronization

// Taking rights away. Nothing here allocates, and nothing waits except for the device: no directory lock is held while
// the translations are shot down.

extension RadixMirror {
    public func invalidate(_ pages: PageRange, keeping mask: MirrorKeepMask, isBlockable: Bool) -> Bool {
        guard !mask.keepsEverything, let pages = pages.intersection(geometry.allPages) else { return true }
        if isBlockable {
            gate.enter()
        } else if !gate.tryEnterAlone() {
            return false
        }
        var update = MirrorUpdate()
        var iterator = DirectoryIterator(tree, pruning: mask.prunes ? pages : nil)
        var position = pages.lowerBound
        while position < pages.upperBound {
            let spot = iterator.descend(to: position)
            position =
                spot.level == 0
                ? clearPages(in: spot.directory, from: position, to: pages.upperBound, mask, &update)
                : clearLeaves(in: spot, from: position, to: pages.upperBound, mask, &update)
            if update.isFull { flush(&update) }
        }
        iterator.finish()
        flush(&update)
        if isBlockable { gate.leave() } else { gate.leaveAlone() }
        return true
    }

    func flush(_ update: inout MirrorUpdate) {
        update.flush(to: effects, deviceAddressOffset: configuration.deviceAddressOffset)
    }

    /// Applies a mask to the 4 KiB entries of one directory. Returns the first page not looked at.
    private func clearPages(
        in directory: UInt32, from first: PageNumber, to end: PageNumber, _ mask: MirrorKeepMask,
        _ update: inout MirrorUpdate
    ) -> PageNumber {
        let words = pool.entries(directory)
        let low = MirrorGeometry.index(first, 0)
        let high = min(MirrorGeometry.entriesPerDirectory, low + first.distance(to: end))
        pool.lock(directory).pointee.lock()
        let result =
            mask.keepsNothing
            ? clearWords(words, low, high, valid: pool.validEntries(directory).pointee, first, &update)
            : maskWords(words, low, high, mask, first, &update)
        if result.cleared > 0 { tree.entriesLeft(UInt32(result.cleared), in: directory) }
        pool.lock(directory).pointee.unlock()
        counters.addLeaves(-result.cleared, level: 0)
        return first.advanced(by: result.next - low)
    }

    /// The hot loop: clears entries `low..<high`, or fewer if the update is full.
    ///
    /// Only a writable entry that is not dirty yet needs the atomic exchange: on every other one, nothing that matters
    /// can be set by somebody without the lock. Skips what is empty, and the rest once all `valid` entries were seen.
    private func clearWords(
        _ words: UnsafeMutablePointer<Atomic<UInt64>>, _ low: Int, _ high: Int, valid: UInt32, _ first: PageNumber,
        _ update: inout MirrorUpdate
    ) -> (next: Int, cleared: Int) {
        var index = low
        var cleared = 0
        var lowest = high
        var highest = low
        while index < high && cleared < valid && !update.isFull {
            let slot = words + index
            var word = slot.pointee.load(ordering: .relaxed)
            if word == 0 {
                index += 1
                continue
            }
            if word & MirrorEntry.dirtyAndWrite == MirrorEntry.writeBit {
                schedulingPoint(.update, on: UInt(bitPattern: slot))
                word = slot.pointee.exchange(0, ordering: .acquiringAndReleasing)
            } else {
                slot.pointee.store(0, ordering: .releasing)
            }
            if word & MirrorEntry.dirtyAndWrite == MirrorEntry.dirtyAndWrite {
                update.noteDirty(first.advanced(by: index - low), count: 1, entry: MirrorEntry(word: word))
            }
            if cleared == 0 { lowest = index }
            highest = index
            cleared += 1
            index += 1
        }
        if cleared > 0 {
            update.noteChanged(first.advanced(by: lowest - low)..<first.advanced(by: highest - low + 1))
        }
        // Once every valid entry of the directory is gone, nothing is left to look at.
        return (cleared == Int(valid) ? high : index, cleared)
    }

    /// As `clearWords`, for a mask that keeps something.
    private func maskWords(
        _ words: UnsafeMutablePointer<Atomic<UInt64>>, _ low: Int, _ high: Int, _ mask: MirrorKeepMask,
        _ first: PageNumber, _ update: inout MirrorUpdate
    ) -> (next: Int, cleared: Int) {
        var index = low
        var cleared = 0
        while index < high && !update.isFull {
            let word = words[index].load(ordering: .relaxed)
            if word & ~mask.mask != 0 {
                let page = first.advanced(by: index - low)
                if apply(mask, to: words + index, covering: page..<page.advanced(by: 1), &update) { cleared += 1 }
            }
            index += 1
        }
        return (index, cleared)
    }

    /// Applies a mask to one leaf, collecting its dirty bit in the same atomic step. True if it is not valid any more.
    func apply(
        _ mask: MirrorKeepMask, to slot: UnsafeMutablePointer<Atomic<UInt64>>, covering pages: PageRange,
        _ update: inout MirrorUpdate
    ) -> Bool {
        schedulingPoint(.update, on: UInt(bitPattern: slot))
        var seen = slot.pointee.load(ordering: .relaxed)
        while true {
            let new = mask.applied(to: MirrorEntry(word: seen)).word
            let result = slot.pointee.weakCompareExchange(
                expected: seen, desired: new, successOrdering: .acquiringAndReleasing, failureOrdering: .relaxed)
            guard result.exchanged else {
                seen = result.original
                continue
            }
            if seen & MirrorEntry.dirtyAndWrite == MirrorEntry.dirtyAndWrite, new & MirrorEntry.dirtyBit == 0 {
                update.noteDirty(pages.lowerBound, count: pages.pageCount, entry: MirrorEntry(word: seen))
            }
            update.noteChanged(pages)
            return new == 0
        }
    }

    /// Applies a mask to the huge leaves of a directory, up to the next link. Returns where to go on.
    private func clearLeaves(
        in spot: DirectoryIterator.Spot, from first: PageNumber, to end: PageNumber, _ mask: MirrorKeepMask,
        _ update: inout MirrorUpdate
    ) -> PageNumber {
        let (directory, level) = (spot.directory, spot.level)
        var position = first
        var cleared = 0
        pool.lock(directory).pointee.lock()
        defer {
            if cleared > 0 { tree.entriesLeft(UInt32(cleared), in: directory) }
            pool.lock(directory).pointee.unlock()
            counters.addLeaves(-cleared, level: level)
        }
        var index = MirrorGeometry.index(first, level)
        let words = pool.entries(directory)
        while index < MirrorGeometry.entriesPerDirectory && position < end && !update.isFull {
            let slot = words + index
            if slot.pointee.load(ordering: .relaxed) == 0 {
                // Most of a directory is empty.
                position = MirrorGeometry.entryPages(position, level).upperBound
                index += 1
                continue
            }
            let entry = MirrorEntry(word: slot.pointee.load(ordering: .acquiring))
            let pages = MirrorGeometry.entryPages(position, level)
            if entry.isDirectory {
                // A dying one is empty. A live one is for the caller to descend into.
                guard tree.isDead(entry.directoryIndex) else { return position }
            } else if entry.word & ~mask.mask != 0 {
                if position > pages.lowerBound || end < pages.upperBound {
                    let child = spare.exchange(DirectoryPool.none, ordering: .acquiringAndReleasing)
                    guard child == DirectoryPool.none else {
                        demote(slot, covering: pages, to: child, in: spot, &update)
                        return position
                    }
                    // Taking more than was asked for is always allowed: the device faults again.
                    counters.wholeLeafDrops.add(1, ordering: .relaxed)
                }
                if apply(mask, to: slot, covering: pages, &update) { cleared += 1 }
            }
            index += 1
            position = pages.upperBound
        }
        return position
    }

    /// Replaces a huge leaf by a directory of 512 smaller ones. The caller holds the lock of the leaf's directory.
    ///
    /// Dirty is reported for every page of the leaf; the copies start clean. The device is shot down for the whole
    /// leaf, because its translation is one.
    func demote(
        _ slot: UnsafeMutablePointer<Atomic<UInt64>>, covering pages: PageRange, to child: UInt32,
        in spot: DirectoryIterator.Spot, _ update: inout MirrorUpdate
    ) {
        let leaf = MirrorEntry(word: slot.pointee.load(ordering: .relaxed))
        let level = spot.level - 1
        let copies = pool.entries(child)
        for index in 0..<MirrorGeometry.entriesPerDirectory {
            let copy = leaf.demoted(to: level, offsetInPages: index * MirrorGeometry.span(level))
            copies[index].store(copy.word, ordering: .relaxed)
        }
        let number = UInt32(MirrorGeometry.entriesPerDirectory)
        pool.place(child).pointee = DirectoryPlace(
            basePage: pages.lowerBound, level: level, parent: spot.directory)
        pool.validEntries(child).pointee = number
        pool.count(child).pointee.store(number, ordering: .relaxed)
        // From the copying to here only dirty and driver bits may have changed; dirty is in this exchange.
        let last = slot.pointee.exchange(MirrorEntry.directory(child).word, ordering: .acquiringAndReleasing)
        if last & MirrorEntry.dirtyAndWrite == MirrorEntry.dirtyAndWrite {
            update.noteDirty(pages.lowerBound, count: pages.pageCount, entry: MirrorEntry(word: last))
        }
        update.noteChanged(pages)
        tree.linked.add(1, ordering: .relaxed)
        counters.demotions.add(1, ordering: .relaxed)
        counters.addLeaves(-1, level: spot.level)
        counters.addLeaves(Int(number), level: level)
    }
}
