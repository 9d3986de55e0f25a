import Synchronization

// Replacing a directory by one huge leaf. Only a commit does this, never an invalidation: it waits for nothing, but it
// needs the whole span validated.
//
// Locks: the child's directory lock, then, after it was released and the child has died, the parent's.

extension RadixMirror {
    /// Replaces the directory at `position` by one leaf of the run, if what is in it is part of that leaf.
    ///
    /// The device may miss for a moment between the two; it faults again.
    func promote(
        _ run: MirrorRun, at position: PageNumber, in parent: DirectoryIterator.Spot,
        _ iterator: inout DirectoryIterator, _ update: inout MirrorUpdate
    ) -> Bool {
        let child = iterator.descend(to: position, target: parent.level - 1)
        guard child.level == parent.level - 1 else { return false }
        let pages = MirrorGeometry.entryPages(position, parent.level)
        guard let isWritable = takeUniform(child, of: run, covering: pages, &update) else { return false }
        var leaf = run.entry(at: position, level: parent.level)
        if isWritable { leaf = MirrorEntry(word: leaf.word | MirrorEntry.writeBit) }
        guard iterator.replaceLowest(by: leaf) else {
            // Another iterator is inside. The entries come back one by one, some perhaps with fewer rights.
            update.noteChanged(pages)
            return false
        }
        counters.addLeaves(1, level: parent.level)
        counters.promotions.add(1, ordering: .relaxed)
        return true
    }

    /// Empties a directory whose entries are all pieces of the run, with no rights that the leaf would not have.
    ///
    /// Returns whether the leaf may be writable; nil, with nothing changed, if the directory must stay.
    private func takeUniform(
        _ spot: DirectoryIterator.Spot, of run: MirrorRun, covering pages: PageRange, _ update: inout MirrorUpdate
    ) -> Bool? {
        let lock = pool.lock(spot.directory)
        lock.pointee.lock()
        defer { lock.pointee.unlock() }
        let words = pool.entries(spot.directory)
        var valid = 0
        var writable = 0
        var expected = run.entry(at: pages.lowerBound, level: spot.level)
        for index in 0..<MirrorGeometry.entriesPerDirectory {
            let entry = MirrorEntry(word: words[index].load(ordering: .relaxed))
            if entry.word != 0 {
                // Driver bits would be lost, and a tag for atomics is for one page.
                let isPiece = (entry.word ^ expected.word) & MirrorEntry.translationMask == 0
                guard isPiece, !entry.isAtomic, entry.driverBits == 0 else { return nil }
                valid += 1
                if entry.isWritable { writable += 1 }
            }
            expected = expected.advanced(by: MirrorGeometry.span(spot.level))
        }
        let isWritable = run.isWritable || writable == MirrorGeometry.entriesPerDirectory
        guard isWritable || writable == 0 else { return nil }
        var isDirty = false
        for index in 0..<MirrorGeometry.entriesPerDirectory {
            let last = MirrorEntry(word: words[index].exchange(0, ordering: .acquiringAndReleasing))
            if last.isDirty && last.isWritable { isDirty = true }
        }
        if isDirty {
            update.noteDirty(
                pages.lowerBound, count: pages.pageCount, entry: run.entry(at: pages.lowerBound, level: spot.level))
            update.noteChanged(pages)
        }
        if valid > 0 { tree.entriesLeft(UInt32(valid), in: spot.directory) }
        counters.addLeaves(-valid, level: spot.level)
        return isWritable
    }
}
