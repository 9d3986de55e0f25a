import Synchronization

/// Who wrote what: each actor writes rising numbers to a word of its own in every page, and notes them before and
/// after. A reader then knows the least and the greatest number that it may find there.
///
/// ```
/// actor:   started := n      store n        completed := n
/// reader:  low := completed ─────── load v ─────── high := started       low <= v <= high
/// ```
final class LiveLedger: @unchecked Sendable {
    // SAFETY: the arrays are immutable, their elements atomic.
    private let started: UnsafeMutablePointer<Atomic<UInt64>>
    private let completed: UnsafeMutablePointer<Atomic<UInt64>>
    /// What was added to the common counter of each page.
    private let totals: UnsafeMutablePointer<Atomic<UInt64>>
    let actors: Int

    init(pages: Int, actors: Int) {
        self.actors = actors
        func zeros(_ count: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
            let words = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: count)
            for i in 0..<count { (words + i).initialize(to: Atomic(0)) }
            return words
        }
        started = zeros(pages * actors)
        completed = zeros(pages * actors)
        totals = zeros(pages)
    }

    deinit {
        started.deallocate()
        completed.deallocate()
        totals.deallocate()
    }

    /// The word of a page that belongs to the actor: in a cache line of its own.
    static func word(of actor: Int) -> Int { actor * 8 }
    /// Behind the words of the actors: all of them add to it.
    static let counterWord = 200

    /// The next number of the actor for the page. Only the actor itself calls this.
    func begin(_ page: Int, _ actor: Int) -> UInt64 {
        started[page * actors + actor].add(1, ordering: .sequentiallyConsistent).newValue
    }
    func end(_ page: Int, _ actor: Int, _ value: UInt64) {
        completed[page * actors + actor].store(value, ordering: .sequentiallyConsistent)
    }

    func low(_ page: Int, _ actor: Int) -> UInt64 {
        completed[page * actors + actor].load(ordering: .sequentiallyConsistent)
    }
    func high(_ page: Int, _ actor: Int) -> UInt64 {
        started[page * actors + actor].load(ordering: .sequentiallyConsistent)
    }

    func add(_ amount: UInt64, _ page: Int) { totals[page].wrappingAdd(amount, ordering: .relaxed) }
    /// Once all actors are done.
    func total(_ page: Int) -> UInt64 { totals[page].load(ordering: .relaxed) }
}

/// A small generator whose seed is printed.
struct LiveRandom {
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
