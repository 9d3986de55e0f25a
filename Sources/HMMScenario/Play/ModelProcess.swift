import HMM
import Synchronization

/// A process of the model, as one of the player's threads acts in it.
struct ModelProcess: ScenarioProcess {
    let thread: PlayThread
    let id: ProcessID
    let process: PlayedProcess

    private var player: Player { thread.player }
    private var space: AddressSpace { process.space }

    var devices: PlayedDevices { player.devices }
    var mirrors: OpenMirrors { process.mirrors }

    func start(of region: RegionID) -> PageNumber { process.start(of: region) }

    // MARK: Mappings

    func map(
        _ region: RegionID, pageCount: Int, _ protection: Protection, _ options: MapOptions
    ) throws(HMMError) {
        let start = process.start(of: region)
        let pages = start..<start.advanced(by: pageCount)
        try space.map(pages, protection: protection, kind: try mappingKind(options, pageCount: pageCount))
        // The recordings ran with huge pages on request only; a region says which it is when it is mapped.
        if !options.contains(.hugetlb) {
            try space.advise(pages, options.contains(.hugepage) ? .hugepage : .nohugepage)
        }
    }

    private func mappingKind(_ options: MapOptions, pageCount: Int) throws(HMMError) -> MappingKind {
        if options.contains(.hugetlb) { return .hugetlb(shared: options.contains(.shared)) }
        guard options.contains(.file) else { return options.contains(.shared) ? .sharedAnonymous : .anonymous() }
        let file = try player.machine.makeFile(pageCount: pageCount)
        return options.contains(.shared) ? .sharedFile(file, offset: 0) : .privateFile(file, offset: 0)
    }

    func unmap(_ pages: PageRange) throws(HMMError) { try space.unmap(pages) }

    func protect(_ pages: PageRange, _ protection: Protection) throws(HMMError) {
        try space.protect(pages, protection)
    }

    func advise(_ pages: PageRange, _ advice: Advice) throws(HMMError) { try space.advise(pages, advice) }

    func move(_ region: RegionID, pageCount: Int, to target: PageNumber) throws(HMMError) {
        let start = process.start(of: region)
        try space.remap(start..<start.advanced(by: pageCount), to: target)
        process.setStart(of: region, target)
    }

    func fork(_ child: ProcessID) throws(HMMError) {
        player.setProcess(child, try process.fork(devices: player.devices))
    }

    // MARK: The CPU

    func read(_ page: PageNumber, number: Int) throws(HMMError) -> PageValue {
        do throws(AccessFault) {
            return try thread.cpu(in: id, space).withPage(page, for: .read) { words in
                PagePattern.value(of: words, page: number)
            }
        } catch {
            return try value(of: error)
        }
    }

    func write(_ page: PageNumber, number: Int, seed: UInt32) throws(HMMError) -> PageValue {
        do throws(AccessFault) {
            try thread.cpu(in: id, space).withPage(page, for: .write) { words in
                PagePattern.fill(words, seed: seed, page: number)
            }
            return .seed(seed)
        } catch {
            return try value(of: error)
        }
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
