// Exclusive access of the reference driver.
//
// Kernel: lib/test_hmm.c dmirror_exclusive, dmirror_atomic_map, dmirror_check_atomic (6.12).

extension DmirrorMirror {
    /// Takes exclusive access of the pages and reads them. Answers the number of pages read.
    ///
    /// With a profile that takes folios by batches, as 6.12 does, any page that was not granted is EBUSY, and what was
    /// granted before stays exclusive. Otherwise the errors are those of `AddressSpace.makeExclusive`, and on an error
    /// nothing that was taken for this request stays so.
    public func exclusive(
        _ pages: PageRange, into words: UnsafeMutableBufferPointer<UInt64>
    ) throws(HMMError) -> Int {
        try validate(pages, room: words.count)
        try requireSpace()
        if device.machine.profile.exclusiveConvertsFolio {
            try takeBatches(pages)
        } else {
            try takePages(pages)
        }
        return try readBack(pages, into: words)
    }

    /// Fails with EPERM while an entry of this mirror is exclusive. Says nothing about the CPU's entries.
    public func checkExclusive(_ pages: PageRange) throws(HMMError) {
        try validate(pages)
        mutex.lock()
        defer { mutex.unlock() }
        for page in pages where table.lookup(page)?.isAtomic ?? false {
            throw HMMError(.notPermitted, "a page of the range is exclusive to the device")
        }
    }

    private func takePages(_ pages: PageRange) throws(HMMError) {
        for page in pages {
            do throws(HMMError) {
                _ = try space.exclusiveFault(page, interval: interval, policy: policy) {
                    frame, sequence throws(HMMError) in
                    mutex.lock()
                    defer { mutex.unlock() }
                    if interval.readRetry(sequence) { return false }
                    try storeAtomic(page, frame)
                    return true
                }
            } catch {
                // The invalidation of the restore erases the entries.
                try space.takeBackExclusive(pages.lowerBound..<page)
                throw error
            }
        }
    }

    private func takeBatches(_ pages: PageRange) throws(HMMError) {
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        var first = pages.lowerBound
        while first < pages.upperBound {
            let chunk = first..<min(first.advanced(by: Self.chunkPages), pages.upperBound)
            var granted = 0
            if let batch = try? space.makeExclusiveBatch(chunk) {
                // Entries are stored only if all pages of the chunk could be faulted in; those granted stay granted.
                if batch.reached == chunk.pageCount { granted = try store(batch, at: first) }
                batch.release()
            }
            guard granted == chunk.pageCount else {
                throw HMMError(.busy, "a page of the range cannot be taken exclusively")
            }
            first = chunk.upperBound
        }
    }

    /// Stores what is exclusive, and answers how many pages of the batch are.
    ///
    /// The conversion is an invalidation that this interval hears, so a sequence from before it is void. One is read
    /// now, with the folios locked, and then the entries are looked at again: what was taken away since the conversion,
    /// by somebody who does not need the folio lock, is not stored. Nobody with an invalidation open waits for a folio.
    ///
    /// Differs from Linux: 6.12's test driver stores what it was granted, whatever has happened to it since.
    private func store(_ batch: borrowing ExclusiveBatch, at first: PageNumber) throws(HMMError) -> Int {
        while true {
            let sequence = interval.readBegin()
            mutex.lock()
            defer { mutex.unlock() }
            if interval.readRetry(sequence) { continue }
            var count = 0
            for (index, frame) in batch.granted.enumerated() where batch.isStanding(index) {
                try storeAtomic(first.advanced(by: index), frame)
                count += 1
            }
            return count
        }
    }

    /// Caller holds `mutex`.
    private func storeAtomic(_ page: PageNumber, _ frame: FrameNumber) throws(HMMError) {
        try table.commit([
            MirrorRun(pages: page..<page.advanced(by: 1), firstFrame: frame, isWritable: true, isAtomic: true)
        ])
    }
}
