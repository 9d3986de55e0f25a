import HMM

extension Verb {
    /// Accesses of a process's CPU.
    static let ofCPUs: [Verb] = [
        Verb(
            actor: .cpu, word: "read", parameters: [.range], meaning: "the CPU reads every page",
            play: { call throws(HMMError) in try call.cpuRead() }),
        Verb(
            actor: .cpu, word: "write", parameters: [.range, .seed],
            meaning: "the CPU fills every page from SEED",
            play: { call throws(HMMError) in try call.cpuWrite() }),
    ]
}

extension Call {
    fileprivate func cpuRead() throws(HMMError) -> StatementResult {
        let (pages, first) = range(0)
        var values = RunLengths<PageValue>()
        for (offset, page) in pages.enumerated() { values.append(try process.read(page, number: first + offset)) }
        return .values(values)
    }

    /// Pages that fault are left out, and then the result says of each page whether it was one of them.
    fileprivate func cpuWrite() throws(HMMError) -> StatementResult {
        let (pages, first) = range(0)
        let seed = seed(1)
        var values = RunLengths<PageValue>()
        for (offset, page) in pages.enumerated() {
            values.append(try process.write(page, number: first + offset, seed: seed))
        }
        return values.contains { $0 != .seed(seed) } ? .values(values) : .ok
    }
}
