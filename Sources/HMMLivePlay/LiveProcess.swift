import CLivePlay
import Glibc
import HMM
import HMMLive
import HMMScenario

/// The process in which this code runs, as one of a scenario: its regions are real mappings, its CPU is the processor,
/// its mirrors are of its own memory.
final class LiveProcess: ScenarioProcess, @unchecked Sendable {
    let id: ProcessID
    let space: LiveSpace
    let devices: PlayedDevices
    let mirrors: OpenMirrors
    let shared: SharedPages
    private let regions: [Scenario.Region]
    private let lock = SpinLock(.pool)
    /// The first page of each region, by the region's number. Guarded by `lock`.
    private var starts: [PageNumber]
    /// How each region was mapped; nil when it was not. Guarded by `lock`.
    private var options: [MapOptions?]
    /// What a person should know of the last result. Guarded by `lock`.
    private var note = ""
    /// What the server does in a forked child, in which this function does not return. Set once, before any request.
    var inChild: ((ProcessID) -> Never)?
    /// What the server does in the parent of a forked child. Set once, before any request.
    var inParent: ((ProcessID, pid_t, [RegionPages]) -> Void)?

    /// The first process of a scenario.
    init(_ scenario: Scenario, space: LiveSpace) {
        id = .main
        self.space = space
        regions = scenario.regions
        devices = PlayedDevices(machine: space.machine, declared: scenario.devices)
        mirrors = OpenMirrors(space: space, devices: devices)
        shared = SharedPages(regionCount: scenario.regions.count)
        starts = scenario.regions.map(\.start)
        options = Array(repeating: nil, count: scenario.regions.count)
    }

    /// A forked child, in the child: the same regions at the same places, and no mirrors.
    init(_ id: ProcessID, childOf parent: LiveProcess) {
        self.id = id
        space = parent.space
        regions = parent.regions
        devices = parent.devices
        // The files are shared with the parent, whose mirrors they are; it goes on using them.
        for mirror in devices.openMirrors { mirror.abandon() }
        mirrors = OpenMirrors(space: space, devices: devices)
        shared = parent.shared
        starts = parent.starts
        options = parent.options
    }

    func start(of region: RegionID) -> PageNumber { lock.withLock { starts[region.index] } }

    /// The pages of a region, and how they were mapped; nil when they never were.
    func mapped(_ region: Int) -> (pages: PageRange, options: MapOptions)? {
        lock.withLock {
            guard let options = options[region] else { return nil }
            return (starts[region]..<starts[region].advanced(by: regions[region].pageCount), options)
        }
    }

    /// What is wrong with the open mirrors and with pages that are away, at a moment when no statement is under way.
    var faults: [String] {
        // What is being told would look half done.
        space.deliverInvalidations()
        return devices.openMirrors.flatMap { $0.checkInvariants() } + regions.indices.flatMap { region in
            mapped(region)?.pages.compactMap { SharedPages.fault(of: $0, in: space) } ?? []
        }
    }

    func takeNote() -> String {
        lock.withLock {
            defer { note = "" }
            return note
        }
    }

    // MARK: Mappings

    func map(
        _ region: RegionID, pageCount: Int, _ protection: Protection, _ options: MapOptions
    ) throws(HMMError) {
        let start = start(of: region)
        let pages = start..<start.advanced(by: pageCount)
        var flags = SystemFlags.mapHere | (options.contains(.shared) ? MAP_SHARED : MAP_PRIVATE)
        var file: Int32 = -1
        if options.contains(.hugetlb) { flags |= SystemFlags.mapHuge }
        if options.contains(.file), !options.contains(.hugetlb) {
            file = clive_play_file(pages.byteCount)
            guard file >= 0 else { throw HMMError(errno: -file) }
        } else {
            flags |= MAP_ANONYMOUS
        }
        defer { if file >= 0 { close(file) } }
        let address = mmap(pages.base, pages.byteCount, protection.bits, flags, file, 0)
        guard address != MAP_FAILED else { throw mapError(errno, options) }
        lock.withLock { self.options[region.index] = options }
        if !options.contains(.hugetlb) {
            try check(space.advise(pages, options.contains(.hugepage) ? Advice.hugepage.bits : Advice.nohugepage.bits))
        }
        if options.isDisjoint(with: [.shared, .file, .hugetlb]) { try space.adopt(pages, faults: .onThread) }
    }

    private func mapError(_ number: Int32, _ options: MapOptions) -> HMMError {
        if number == EEXIST { say("something else of the process lies where the region should") }
        if options.contains(.hugetlb) {
            say("the machine has no hugetlb pages left: see /proc/sys/vm/nr_hugepages")
        }
        return HMMError(errno: number)
    }

    func unmap(_ pages: PageRange) throws(HMMError) { try check(space.unmap(pages)) }

    func protect(_ pages: PageRange, _ protection: Protection) throws(HMMError) {
        try check(space.protect(pages, protection.bits))
    }

    func advise(_ pages: PageRange, _ advice: Advice) throws(HMMError) {
        if advice == .pageout, !Machinery.hasSwap { say("the machine has no swap: anonymous pages stay") }
        try check(space.advise(pages, advice.bits))
    }

    func move(_ region: RegionID, pageCount: Int, to target: PageNumber) throws(HMMError) {
        let start = start(of: region)
        let flags = SystemFlags.moveHere
        switch space.remap(start..<start.advanced(by: pageCount), newPageCount: pageCount, flags: flags, to: target) {
        case .moved(let place): lock.withLock { starts[region.index] = place }
        case .failed(let number): throw HMMError(errno: number)
        }
    }

    func fork(_ child: ProcessID) throws(HMMError) {
        guard let inChild, let inParent else { preconditionFailure("a fork before anybody serves") }
        let pages = shared.willFork(self)
        let pid = space.fork()
        if pid == 0 { inChild(child) }
        guard pid > 0 else { throw HMMError(errno: errno) }
        inParent(child, pid, pages)
    }

    /// The process's memory goes.
    func unmapAll() {
        for region in regions.indices {
            if let mapped = mapped(region) { _ = space.unmap(mapped.pages) }
        }
    }

    // MARK: The CPU

    func read(_ page: PageNumber, number: Int) throws(HMMError) -> PageValue {
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Geometry.wordsPerPage) { words in
            let signal = clive_play_read(page.pointer, words.baseAddress)
            return PageValue(signal: signal) ?? PagePattern.value(of: UnsafeBufferPointer(words), page: number)
        }
    }

    func write(_ page: PageNumber, number: Int, seed: UInt32) throws(HMMError) -> PageValue {
        let first = PagePattern.word(seed: seed, page: number, word: 0)
        return PageValue(signal: clive_play_write(page.pointer, first)) ?? .seed(seed)
    }

    // MARK: Errors

    private func check(_ number: Int32) throws(HMMError) {
        guard number == 0 else { throw HMMError(errno: number) }
    }

    private func say(_ words: String) { lock.withLock { note = words } }
}

extension PageValue {
    fileprivate init?(signal: Int32) {
        switch signal {
        case 0: return nil
        case SIGBUS: self = .busError
        default: self = .segmentationFault
        }
    }
}
