import HMM

extension Verb {
    /// What a process asks of a device.
    static let ofDevices: [Verb] = [
        Verb(
            actor: .device, word: "read", parameters: [.range], meaning: "the device reads the range",
            play: { call throws(HMMError) in
                try call.deviceRead { (mirror, pages, words) throws(HMMError) in
                    let counts = try mirror.read(pages, into: words)
                    return [.init("pages", counts.pages), .init("faults", counts.faults)]
                }
            }),
        Verb(
            actor: .device, word: "write", parameters: [.range, .seed],
            meaning: "the device fills every page from SEED",
            play: { call throws(HMMError) in try call.deviceWrite() }),
        Verb(
            actor: .device, word: "migrate", parameters: [.range], meaning: "move the range to the device's memory",
            play: { call throws(HMMError) in
                try call.deviceRead { (mirror, pages, words) throws(HMMError) in
                    [.init("pages", try mirror.migrate(pages, into: words).pages)]
                }
            }),
        Verb(
            actor: .device, word: "evict", parameters: [.range], meaning: "move the range back to system memory",
            play: { call throws(HMMError) in
                let pages = call.range(0).pages
                let moved = try call.withMirror { (mirror) throws(HMMError) in try mirror.evict(pages) }
                return .request([.init("pages", moved)], values: nil)
            }),
        Verb(
            actor: .device, word: "exclusive", parameters: [.range], meaning: "take exclusive access, as for atomics",
            play: { call throws(HMMError) in
                try call.deviceRead { (mirror, pages, words) throws(HMMError) in
                    [.init("pages", try mirror.exclusive(pages, into: words))]
                }
            }),
        Verb(
            actor: .device, word: "check-exclusive", parameters: [.range],
            meaning: "fails while an entry is exclusive",
            play: { call throws(HMMError) in
                let pages = call.range(0).pages
                try call.withMirror { (mirror) throws(HMMError) in try mirror.checkExclusive(pages) }
                return .ok
            }),
        Verb(
            actor: .device, word: "snapshot", parameters: [.range],
            meaning: "what the device would see, without faulting",
            play: { call throws(HMMError) in
                let pages = call.range(0).pages
                return .snapshot(
                    RunLengths(try call.withMirror { (mirror) throws(HMMError) in try mirror.snapshot(pages) }))
            }),
        Verb(
            actor: .device, word: "release", parameters: [], meaning: "the device gives all its memory back",
            play: { call throws(HMMError) in
                try call.withMirror { (mirror) throws(HMMError) in try mirror.device.release() }
                return .ok
            }),
        Verb(
            actor: .device, word: "open", parameters: [], meaning: "open this process's mirror",
            play: { call throws(HMMError) in
                try call.withMirror { (_) throws(HMMError) in }
                return .ok
            }),
        Verb(
            actor: .device, word: "close", parameters: [], meaning: "drop this process's mirror",
            play: { call throws(HMMError) in
                if let device = call.statement.device { call.process.mirrors.close(device) }
                return .ok
            }),
    ]
}

extension Call {
    /// Runs a request that reads the range into a buffer, and answers its counts and what the pages hold.
    fileprivate func deviceRead(
        _ request: (DmirrorMirror, PageRange, UnsafeMutableBufferPointer<UInt64>) throws(HMMError)
            -> [StatementResult.Count]
    ) throws(HMMError) -> StatementResult {
        let (pages, first) = range(0)
        return try withWords(pageCount: pages.pageCount) { (words) throws(HMMError) in
            let counts = try withMirror { (mirror) throws(HMMError) in try request(mirror, pages, words) }
            var values = RunLengths<PageValue>()
            for offset in 0..<pages.pageCount {
                let page = words.extracting(offset * Geometry.wordsPerPage..<(offset + 1) * Geometry.wordsPerPage)
                values.append(PagePattern.value(of: UnsafeBufferPointer(page), page: first + offset))
            }
            return .request(counts, values: values)
        }
    }

    fileprivate func deviceWrite() throws(HMMError) -> StatementResult {
        let (pages, first) = range(0)
        let seed = seed(1)
        return try withWords(pageCount: pages.pageCount) { (words) throws(HMMError) in
            for offset in 0..<pages.pageCount {
                let page = words.extracting(offset * Geometry.wordsPerPage..<(offset + 1) * Geometry.wordsPerPage)
                PagePattern.fill(page, seed: seed, page: first + offset)
            }
            let counts = try withMirror { (mirror) throws(HMMError) in
                try mirror.write(pages, from: UnsafeBufferPointer(words))
            }
            return .request([.init("pages", counts.pages), .init("faults", counts.faults)], values: nil)
        }
    }

    private func withWords<Result>(
        pageCount: Int, _ body: (UnsafeMutableBufferPointer<UInt64>) throws(HMMError) -> Result
    ) throws(HMMError) -> Result {
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: pageCount * Geometry.wordsPerPage)
        defer { words.deallocate() }
        return try body(words)
    }
}
