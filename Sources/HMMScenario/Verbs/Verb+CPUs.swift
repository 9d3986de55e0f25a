import HMM
import Synchronization

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
        let cpu = cpu
        var values = RunLengths<PageValue>()
        for (offset, page) in pages.enumerated() {
            do throws(AccessFault) {
                values.append(
                    try cpu.withPage(page, for: .read) { words in PagePattern.value(of: words, page: first + offset) })
            } catch {
                values.append(try value(of: error))
            }
        }
        return .values(values)
    }

    /// Pages that fault are left out, and then the result says of each page whether it was one of them.
    fileprivate func cpuWrite() throws(HMMError) -> StatementResult {
        let (pages, first) = range(0)
        let seed = seed(1)
        let cpu = cpu
        var values = RunLengths<PageValue>()
        for (offset, page) in pages.enumerated() {
            do throws(AccessFault) {
                try cpu.withPage(page, for: .write) { words in
                    PagePattern.fill(words, seed: seed, page: first + offset)
                }
                values.append(.seed(seed))
            } catch {
                values.append(try value(of: error))
            }
        }
        return values.contains { $0 != .seed(seed) } ? .values(values) : .ok
    }

    private func value(of fault: AccessFault) throws(HMMError) -> PageValue {
        switch fault {
        case .segmentationFault: return .segmentationFault
        case .busError: return .busError
        case .outOfMemory: throw HMMError(.outOfMemory, "no memory for a page that a CPU touched")
        }
    }
}

extension PagePattern {
    /// The words of a page in the model, which other threads may write at the same time.
    static func value(of words: UnsafeMutablePointer<Atomic<UInt64>>, page: Int) -> PageValue {
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Geometry.wordsPerPage) { copy in
            for index in copy.indices { copy[index] = words[index].load(ordering: .relaxed) }
            return value(of: UnsafeBufferPointer(copy), page: page)
        }
    }

    static func fill(_ words: UnsafeMutablePointer<Atomic<UInt64>>, seed: UInt32, page: Int) {
        let first = word(seed: seed, page: page, word: 0)
        for index in 0..<Geometry.wordsPerPage { words[index].store(first | UInt64(index), ordering: .relaxed) }
    }
}
