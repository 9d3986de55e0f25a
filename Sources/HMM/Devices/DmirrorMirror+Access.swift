import Synchronization

extension DmirrorMirror {
    /// How a device access ended: the pages of the request, and the fault calls that it took.
    public typealias Counts = (pages: Int, faults: Int)

    /// Reads the pages through the mirror, 512 words a page.
    ///
    /// Any entry will do; where one is missing, the rest of the range is faulted in at once, also pages that have
    /// entries: those are stored anew. Errors: EFAULT, EBUSY, ENOMEM, EINVAL; nothing is delivered then.
    public func read(
        _ pages: PageRange, into words: UnsafeMutableBufferPointer<UInt64>
    ) throws(HMMError) -> Counts {
        try validate(pages, room: words.count)
        var faults = 0
        var done = 0
        while true {
            done += copy(from: pages, startingAt: done, into: words)
            guard done < pages.pageCount else { return (done, faults) }
            try fault(pages.lowerBound.advanced(by: done)..<pages.upperBound, write: false)
            faults += 1
        }
    }

    /// Writes the pages through the mirror, page by page as entries allow: pages before an error are written.
    ///
    /// Errors: as for reading, and EPERM for a mapping that may not be written.
    public func write(_ pages: PageRange, from words: UnsafeBufferPointer<UInt64>) throws(HMMError) -> Counts {
        try validate(pages, room: words.count)
        var faults = 0
        var done = 0
        while true {
            done += copy(to: pages, startingAt: done, from: words)
            guard done < pages.pageCount else { return (done, faults) }
            try fault(pages.lowerBound.advanced(by: done)..<pages.upperBound, write: true)
            faults += 1
        }
    }

    /// Copies pages out as long as there are entries. Returns how many.
    func copy(
        from pages: PageRange, startingAt first: Int, into words: UnsafeMutableBufferPointer<UInt64>
    ) -> Int {
        let window = space.frameWindow
        return withTable(pages, from: first) { index, entry in
            let source = window.words(of: entry.frame)
            space.announceAccess(to: pages.lowerBound.advanced(by: index), .read)
            let target = words.baseAddress! + index * Geometry.wordsPerPage
            for word in 0..<Geometry.wordsPerPage { target[word] = source[word].load(ordering: .relaxed) }
            return true
        }
    }

    private func copy(
        to pages: PageRange, startingAt first: Int, from words: UnsafeBufferPointer<UInt64>
    ) -> Int {
        let window = space.frameWindow
        return withTable(pages, from: first) { index, entry in
            // An atomic entry is no write entry: the page is taken back, and mapped anew.
            guard entry.isWritable, !entry.isAtomic else { return false }
            let page = pages.lowerBound.advanced(by: index)
            guard table.markDirty(page, through: entry) else { return false }
            space.announceAccess(to: page, .write)
            let target = window.words(of: entry.frame)
            let source = words.baseAddress! + index * Geometry.wordsPerPage
            for word in 0..<Geometry.wordsPerPage { target[word].store(source[word], ordering: .relaxed) }
            return true
        }
    }

    /// Calls `body` with `mutex` held for each page that has an entry, until one has none or `body` says no; waits for
    /// own migrations of such pages. Returns the number of pages done.
    ///
    /// An entry stays through an own migration, so its page must not be used while that runs: what is written now
    /// would be written into a frame that has been copied already.
    private func withTable(_ pages: PageRange, from first: Int, _ body: (Int, MirrorEntry) -> Bool) -> Int {
        var index = first
        mutex.lock()
        defer { mutex.unlock() }
        while index < pages.pageCount {
            let page = pages.lowerBound.advanced(by: index)
            if migrations.isMigratingLocked(page..<page.advanced(by: 1)) {
                let generation = migrations.generation
                mutex.unlock()
                migrations.waitForEnd(since: generation)
                mutex.lock()
                continue
            }
            guard let entry = table.lookup(page), body(index, entry) else { break }
            index += 1
        }
        return index - first
    }
}
