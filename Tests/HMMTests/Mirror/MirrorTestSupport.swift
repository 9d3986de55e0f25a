import Glibc
import Synchronization

@testable import HMM

/// A generator whose whole run follows from its seed.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
    mutating func chance(_ numerator: Int, in denominator: Int) -> Bool { below(denominator) < numerator }
}

/// The seed of a random test: `HMM_SEED`, or a fixed one.
func mirrorTestSeed(_ standard: UInt64) -> UInt64 {
    guard let text = getenv("HMM_SEED"), let seed = UInt64(String(cString: text)) else { return standard }
    return seed
}

func pages(_ first: UInt64, _ count: Int = 1) -> PageRange {
    PageNumber(first)..<PageNumber(first).advanced(by: count)
}

func run(
    _ first: UInt64, _ count: Int = 1, frame: UInt32, write: Bool = true, order: Int = 0,
    location: MirrorLocation = .system, atomic: Bool = false
) -> MirrorRun {
    MirrorRun(
        pages: pages(first, count), firstFrame: FrameNumber(frame), isWritable: write, order: order,
        location: location, isAtomic: atomic)
}

/// Hears what a mirror tells the device, in order.
final class RecordingEffects: DeviceTranslationCache, @unchecked Sendable {
    enum Event: Equatable {
        case shootdown([PageRange], isFull: Bool)
        case dirty(PageRange, FrameNumber)
    }
    private let lock = SpinLock(.leaf)
    /// Guarded by `lock`.
    private var heard: [Event] = []

    func shootDown(_ shootdown: MirrorShootdown) {
        let ranges = (0..<shootdown.count).map { shootdown[$0] }
        lock.withLock { heard.append(.shootdown(ranges, isFull: shootdown.isFull)) }
    }

    func noteDirty(_ run: MirrorRun) { lock.withLock { heard.append(.dirty(run.pages, run.firstFrame)) } }

    /// What was heard since the last call.
    func take() -> [Event] {
        lock.withLock {
            defer { heard = [] }
            return heard
        }
    }

    /// Dirty pages heard since the last call, with their frames.
    func takeDirty() -> [PageNumber: FrameNumber] {
        var result: [PageNumber: FrameNumber] = [:]
        for case .dirty(let range, let frame) in take() {
            for page in range { result[page] = frame + range.lowerBound.distance(to: page) }
        }
        return result
    }

    var effects: MirrorEffects { MirrorEffects(translationCache: self) { [self] in noteDirty($0) } }
}

/// A driver with a table of its own: a dictionary.
final class DictionaryDriver: MirrorTableDriver, @unchecked Sendable {
    private let lock = SpinLock(.leaf)
    /// Guarded by `lock`.
    private var table: [PageNumber: MirrorEntry] = [:]

    func storeEntries(_ run: MirrorRun) throws(HMMError) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        var isTagLost = false
        for page in run.pages {
            let new = run.entry(at: page, level: 0)
            if let old = table[page] {
                guard (old.word ^ new.word) & MirrorEntry.translationMask == 0 else {
                    table[page] = nil
                    throw HMMError(.inconsistent, "another translation")
                }
                if old.isAtomic && !new.isAtomic { isTagLost = true }
                table[page] = MirrorEntry(
                    frame: new.frame, isWritable: old.isWritable || new.isWritable, isAtomic: new.isAtomic,
                    location: new.location, isDirty: old.isDirty)
            } else {
                table[page] = new
            }
        }
        return isTagLost
    }

    func removeRights(
        _ pages: PageRange, keeping mask: MirrorKeepMask, isBlockable: Bool, dirty: (MirrorRun) -> Void
    ) -> Bool {
        var found: [MirrorRun] = []
        lock.withLock {
            for page in table.keys.filter(pages.contains).sorted() {
                guard let old = table[page] else { continue }
                let new = mask.applied(to: old)
                if old.isDirty && old.isWritable && !new.isDirty { found.append(singleRun(page, old)) }
                table[page] = new.isValid ? new : nil
            }
        }
        found.forEach(dirty)
        return true
    }

    private func singleRun(_ page: PageNumber, _ entry: MirrorEntry) -> MirrorRun {
        MirrorRun(pages: page..<page.advanced(by: 1), entry: entry, firstFrame: entry.frame)
    }

    func takeDirty(_ pages: PageRange, dirty: (MirrorRun) -> Void) {
        var found: [MirrorRun] = []
        lock.withLock {
            for page in table.keys.filter(pages.contains).sorted() {
                guard let old = table[page], old.isDirty else { continue }
                found.append(singleRun(page, old))
                table[page] = MirrorEntry(word: old.word & ~MirrorEntry.dirtyBit)
            }
        }
        found.forEach(dirty)
    }

    func entry(of page: PageNumber) -> MirrorEntry? { lock.withLock { table[page] } }

    func setDirty(_ page: PageNumber, through translation: MirrorEntry) -> Bool {
        lock.withLock {
            guard let entry = table[page], entry.isWritable, entry.frame == translation.frame else { return false }
            table[page] = MirrorEntry(word: entry.word | MirrorEntry.dirtyBit)
            return true
        }
    }

    func forEachEntry(in pages: PageRange, _ body: (MirrorRun) -> Void) {
        let sorted = lock.withLock { table.sorted { $0.key < $1.key } }
        for (page, entry) in sorted where pages.contains(page) { body(singleRun(page, entry)) }
    }
}

/// Fails the n-th allocation, and each one after it if asked to.
final class AllocationFailure: Sendable {
    private let calls = Atomic<Int>(0)
    private let failing = Atomic<Int>(-1)

    func failCall(_ number: Int) {
        calls.store(0, ordering: .relaxed)
        failing.store(number, ordering: .relaxed)
    }

    var hook: MirrorAllocationHook {
        { [self] in calls.add(1, ordering: .relaxed).oldValue != failing.load(ordering: .relaxed) }
    }
    var callCount: Int { calls.load(ordering: .relaxed) }
}

extension RadixMirror {
    convenience init(budget: Int, lastPage: UInt64? = nil, effects: MirrorEffects = .init()) {
        var configuration = MirrorConfiguration()
        configuration.emptyBudget = budget
        configuration.directoryLimit = 1 << 14
        if let lastPage { configuration.lastPage = PageNumber(lastPage) }
        self.init(configuration, effects: effects)
    }
}
