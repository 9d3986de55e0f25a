import Synchronization

// Where a range fault waits for others, or faults in what is missing. Both restart the walk.

extension RangeFaultWalk {
    /// Somebody moves the page: waits for it, and restarts there.
    mutating func wait(for leaf: SoftLeaf, in pointer: EntryPointer, at page: PageNumber) -> Step {
        guard mayWait else { return .stop }
        last = page
        space.frames.waitForUnlock(leaf.frame, while: pointer, holds: leaf.entry.raw)
        return .restart
    }

    /// Faults in what a piece needs, and restarts at its first page.
    ///
    /// [K] The fault covers the whole piece, also pages that need less or nothing: a device's own private pages behind
    /// the first one come home, and exclusive pages are taken back. With `next` it covers the first run of pages that
    /// need the same, so that a page that needs nothing stays as it is. All of the run together: what each of its
    /// faults invalidates voids the round, and a round for each page would be many.
    ///
    /// - Parameter entries: the PTEs of the piece; nil if there is no table.
    mutating func fault(
        _ piece: PageRange, _ need: Need, in vma: VMA, entries: EntryPointer? = nil
    ) throws(HMMError) -> Step {
        last = piece.lowerBound
        var part = piece
        var isWrite = need.contains(.write)
        if !runsToEndOfPiece {
            part = firstRun(of: piece, entries)
            isWrite = self.need(word(of: part.lowerBound), found: 0).contains(.write)
        }
        guard !isWrite || vma.isWritable else {
            throw HMMError(.notPermitted, "a writable page was requested of a mapping that is not")
        }
        guard mayWait else { return .stop }
        faultCount += 1
        switch space.fault(part, in: vma, write: isWrite) {
        case .done: return .restart
        // Differs from Linux: 6.12 answers EFAULT here as well, though the caller could try again.
        case .outOfMemory: throw HMMError(.outOfMemory, "no memory for a page that was requested")
        case .segmentationFault, .busError, .needsMMapLock:
            throw HMMError(.badAddress, "a page that was requested could not be made present")
        }
    }

    /// A huge leaf without a right that is needed: one fault at its first such page changes the whole of it.
    mutating func faultLeaf(_ piece: PageRange, _ need: Need, in vma: VMA) throws(HMMError) -> Step {
        if runsToEndOfPiece { return try fault(piece, need, in: vma) }
        var first = piece.lowerBound
        while self.need(word(of: first), found: 0) != need { first = first.advanced(by: 1) }
        let step = try fault(first..<first.advanced(by: 1), need, in: vma)
        last = piece.lowerBound
        return step
    }

    /// The first pages of the piece that need something, as long as they need the same.
    private func firstRun(of piece: PageRange, _ entries: EntryPointer?) -> PageRange {
        var first = piece.lowerBound
        while need(word(of: first), found: 0).isEmpty { first = first.advanced(by: 1) }
        let wanted = need(word(of: first), found: 0)
        var end = first.advanced(by: 1)
        while end < piece.upperBound, need(of: end, entries.map { $0 + piece.lowerBound.distance(to: end) }) == wanted {
            end = end.advanced(by: 1)
        }
        return first..<end
    }

    /// What the page needs that has this entry, or no table. One that a fault does not help needs nothing here.
    private func need(of page: PageNumber, _ pointer: EntryPointer?) -> Need {
        guard let pointer else { return need(word(of: page), found: 0) }
        let entry = PageTableEntry(raw: pointer.pointee.load(ordering: .relaxed))
        switch entry.softLeaf?.kind {
        case .migration, .poison: return []
        case .devicePrivate where isOwnPrivate(entry.frame): return []
        default: break
        }
        let rights = HMMPageWord.valid | (entry.isWritable ? HMMPageWord.write : 0)
        return need(word(of: page), found: entry.isAccessible ? rights : 0)
    }

    private func word(of page: PageNumber) -> UInt64 { words[pages.lowerBound.distance(to: page)] }
}
