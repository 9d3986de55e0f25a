import CLive
import HMM
import HMMLive
import HMMScenario

/// The pages that this process has shared with another since a fork, and where each was when it was looked at last.
///
/// In one kernel such a page is one folio: what moves it for one process moves it for all, by the reverse map. Here it
/// is the player that tells the others, so each process says after a statement what became of its shared pages.
final class SharedPages: @unchecked Sendable {
    enum Place: Equatable {
        /// Not shared: never was, or not any more.
        case own
        case home
        case device(Int)
    }

    private let lock = FairMutex(.driver)
    /// By the region's number, and the page within it; empty for regions without shared pages. Guarded by `lock`.
    private var places: [[Place]]

    init(regionCount: Int) { places = Array(repeating: [], count: regionCount) }

    /// Before a fork: all that the child will share. Answers the pages.
    func willFork(_ process: LiveProcess) -> [RegionPages] {
        lock.lock()
        defer { lock.unlock() }
        var all: [RegionPages] = []
        for region in places.indices {
            guard let mapped = process.mapped(region), mapped.options.isDisjoint(with: [.shared, .hugetlb]) else {
                continue
            }
            if places[region].isEmpty { places[region] = Array(repeating: .own, count: mapped.pages.pageCount) }
            var shared = RunsOfPages<Bool>(region)
            for (index, page) in mapped.pages.enumerated() {
                switch Sight(of: page, in: process.space) {
                case .nothing, .file: places[region][index] = .own
                case .home, .exclusive: places[region][index] = .home
                case .device(let device, _): places[region][index] = .device(device)
                }
                shared.append(index, places[region][index] == .own ? nil : true)
            }
            all += shared.runs.map(\.pages)
        }
        return all
    }

    /// After a statement: what became of them. Pages that were given up are not looked at again.
    func effects(in process: LiveProcess) -> [LiveEffect] {
        lock.lock()
        defer { lock.unlock() }
        var effects: [LiveEffect] = []
        for region in places.indices where places[region].contains(where: { $0 != .own }) {
            guard let mapped = process.mapped(region) else { continue }
            var moved = RunsOfPages<Int>(region)
            var left = RunsOfPages<Bool>(region)
            for (index, page) in mapped.pages.enumerated() where places[region][index] != .own {
                let old = places[region][index]
                let (new, movedTo) = Self.change(of: old, Sight(of: page, in: process.space))
                places[region][index] = new
                moved.append(index, movedTo)
                left.append(index, new == .own ? true : nil)
            }
            effects += moved.runs.map { .moved(SharedMove(pages: $0.pages, device: $0.value < 0 ? nil : $0.value)) }
            effects += left.runs.map { .left($0.pages) }
        }
        return effects
    }

    /// What a shared page is now, and where it went on the way (-1: home); nil if it stayed where it was.
    private static func change(of old: Place, _ sight: Sight) -> (new: Place, movedTo: Int?) {
        let wasAway = old != .home
        switch sight {
        // Discarded or unmapped: that moves nobody's.
        case .nothing, .file: return (.own, nil)
        // A page on a device comes home before it is written or taken exclusively.
        case .exclusive: return (.own, wasAway ? -1 : nil)
        case .home(let isWritten): return (isWritten ? .own : .home, wasAway ? -1 : nil)
        case .device(let device, let isWritable):
            return (isWritable ? .own : .device(device), old == .device(device) ? nil : device)
        }
    }

    /// What is wrong with the books of a page, if anything: one that is away is where its word says, in a frame that is
    /// in use.
    static func fault(of page: PageNumber, in space: LiveSpace) -> String? {
        guard let pointer = clive_word(page.raw) else { return nil }
        let word = clive_load(pointer)
        let frame = clive_frame_of(word)
        switch Int(clive_state_of(word)) {
        case CLIVE_HOME: return nil
        case CLIVE_AWAY:
            guard clive_owner(frame) == page.raw else { return "\(page) is in frame \(frame), which is another's" }
            let frames = space.machine.frames
            let isUsed = frames.isUsed(frames.head(of: FrameNumber(frame)))
            return isUsed ? nil : "\(page) is in frame \(frame), which is free"
        default: return "\(page) is on its way, with nobody who moves it"
        }
    }

    /// Where a page of a region is, if it is shared.
    func place(of index: Int, in region: Int) -> Place {
        lock.withLock { places[region].isEmpty ? .own : places[region][index] }
    }
}

/// Where a page is, as this process's tables and the words of its pages say.
enum Sight {
    case nothing
    /// A page of a file, or of shared memory.
    case file
    case home(isWritten: Bool)
    case exclusive
    case device(Int, isWritable: Bool)

    init(of page: PageNumber, in space: LiveSpace) {
        if let pointer = clive_word(page.raw) {
            let word = clive_load(pointer)
            if clive_state_of(word) == UInt32(CLIVE_AWAY) {
                self = Sight(awayWord: word, in: space)
                return
            }
        }
        var bits: UInt8 = 0
        guard clive_look(page.raw, 1, &bits) == 0, Sight.has(bits, CLIVE_PRESENT), !Sight.has(bits, CLIVE_ZERO),
            !Sight.has(bits, CLIVE_FILE)
        else {
            self = Sight.has(bits, CLIVE_PRESENT) && Sight.has(bits, CLIVE_FILE) ? .file : .nothing
            return
        }
        // What fork or a way home left protected, or two processes map, has not been written since.
        self = .home(isWritten: !Sight.has(bits, CLIVE_WP) && Sight.has(bits, CLIVE_EXCLUSIVELY_MAPPED))
    }

    private init(awayWord word: UInt64, in space: LiveSpace) {
        if word & UInt64(CLIVE_EXCLUSIVE) != 0 {
            self = .exclusive
            return
        }
        guard case .device(let owner, _) = space.place(of: FrameNumber(clive_frame_of(word))) else {
            self = .nothing
            return
        }
        self = .device(Int(owner), isWritable: word & UInt64(CLIVE_READONLY) == 0)
    }

    private static func has(_ bits: UInt8, _ bit: Int) -> Bool {
        Int(bits) & bit != 0
    }
}

/// Neighbouring pages of a region with the same value, gathered in order.
struct RunsOfPages<Value: Equatable> {
    private(set) var runs: [(pages: RegionPages, value: Value)] = []
    private let region: Int

    init(_ region: Int) { self.region = region }

    mutating func append(_ index: Int, _ value: Value?) {
        guard let value else { return }
        if let last = runs.last, last.value == value, last.pages.pages.upperBound == index {
            runs[runs.count - 1].pages.pages = last.pages.pages.lowerBound..<index + 1
        } else {
            runs.append((RegionPages(region: region, pages: index..<index + 1), value))
        }
    }
}
