import Synchronization
import Testing

@testable import HMM

/// Who wrote what: each actor writes rising numbers to a word of its own in every page, and notes them before and
/// after. A reader then knows the least and the greatest number that it may legally find there.
///
/// ```
/// actor:   started := n      store n        completed := n
/// reader:  low := completed ─────── load v ─────── high := started       low <= v <= high
/// ```
/// A lost write, a stale translation or a page of somebody else's shows as a number outside.
final class StressLedger: @unchecked Sendable {
    // SAFETY: the arrays are immutable, their elements atomic.
    private let started: UnsafeMutablePointer<Atomic<UInt64>>
    private let completed: UnsafeMutablePointer<Atomic<UInt64>>
    /// What was added to the common counter of each page.
    private let totals: UnsafeMutablePointer<Atomic<UInt64>>
    let pages: Int
    let actors: Int

    init(pages: Int, actors: Int) {
        self.pages = pages
        self.actors = actors
        started = .allocate(capacity: pages * actors)
        completed = .allocate(capacity: pages * actors)
        totals = .allocate(capacity: pages)
        for i in 0..<pages { (totals + i).initialize(to: Atomic(0)) }
        for i in 0..<pages * actors {
            (started + i).initialize(to: Atomic(0))
            (completed + i).initialize(to: Atomic(0))
        }
    }

    deinit {
        started.deallocate()
        completed.deallocate()
        totals.deallocate()
    }

    private func index(_ page: Int, _ actor: Int) -> Int { page * actors + actor }

    /// The word of a page that belongs to the actor: in a cache line of its own.
    func word(of actor: Int) -> Int { actor * 8 }

    /// The next number of the actor for the page. Only the actor itself calls this.
    func begin(_ page: Int, _ actor: Int) -> UInt64 {
        started[index(page, actor)].add(1, ordering: .sequentiallyConsistent).newValue
    }

    func end(_ page: Int, _ actor: Int, _ value: UInt64) {
        completed[index(page, actor)].store(value, ordering: .sequentiallyConsistent)
    }

    func add(_ amount: UInt64, _ page: Int) { totals[page].wrappingAdd(amount, ordering: .relaxed) }
    /// Once all actors are done.
    func total(_ page: Int) -> UInt64 { totals[page].load(ordering: .relaxed) }

    func low(_ page: Int, _ actor: Int) -> UInt64 {
        completed[index(page, actor)].load(ordering: .sequentiallyConsistent)
    }
    func high(_ page: Int, _ actor: Int) -> UInt64 {
        started[index(page, actor)].load(ordering: .sequentiallyConsistent)
    }
}

/// A mapping that the actors share.
final class StressRegion: Sendable {
    let name: String
    let pageCount: Int
    /// Number of its first page in the ledger.
    let firstPage: Int
    /// Contents may vanish: then only the upper bound is checked.
    let isVolatile: Bool
    let base: Atomic<UInt64>
    /// Held by who moves or replaces the mapping.
    let change = FairMutex(.inode)
    let kind: @Sendable () -> MappingKind

    init(
        _ name: String, _ pageCount: Int, firstPage: Int, base: PageNumber, isVolatile: Bool = false,
        kind: @escaping @Sendable () -> MappingKind
    ) {
        self.name = name
        self.pageCount = pageCount
        self.firstPage = firstPage
        self.isVolatile = isVolatile
        self.base = Atomic(base.raw)
        self.kind = kind
    }

    func page(_ i: Int) -> PageNumber { PageNumber(base.load(ordering: .acquiring)).advanced(by: i) }
    var pages: PageRange { page(0)..<page(pageCount) }

    /// A random part of it.
    func part(_ random: inout SeededRandom) -> PageRange {
        let low = random.below(pageCount)
        let count = 1 + random.below(min(pageCount - low, 1 + random.below(pageCount)))
        let first = page(0)
        return first.advanced(by: low)..<first.advanced(by: low + count)
    }
}

/// A small generator whose seed is printed with every failure.
struct SeededRandom {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }
    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state &* 0x2545_F491_4F6C_DD1D
    }
    mutating func below(_ n: Int) -> Int { Int(next() >> 33) % n }
}
