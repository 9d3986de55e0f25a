import Testing

@testable import HMM

/// Aim: the tree finds exactly the ranges that overlap, in order, whatever was inserted and removed before.
/// Method: random operations from a fixed seed, against a plain array.
@Suite("The interval tree")
struct IntervalTreeTests {
    final class Payload { let identity: UInt64; init(_ identity: UInt64) { self.identity = identity } }

    struct Generator: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
    }

    private func overlapping(_ tree: IntervalTree<Payload>, _ pages: PageRange) -> [UInt64] {
        var found: [UInt64] = []
        var next = tree.first(overlapping: pages)
        while let (key, payload) = next {
            found.append(payload.identity)
            next = tree.first(overlapping: pages, after: key)
        }
        return found
    }

    @Test("random inserts, removals and queries agree with an array", arguments: [1, 2, 3, 4, 5] as [UInt64])
    func againstArray(seed: UInt64) {
        var random = Generator(state: seed)
        var tree = IntervalTree<Payload>()
        var model: [(pages: PageRange, identity: UInt64)] = []
        for identity in 1...3000 as ClosedRange<UInt64> {
            if !model.isEmpty, random.next() % 3 == 0 {
                let victim = model.remove(at: Int(random.next() % UInt64(model.count)))
                #expect(tree.remove(pages: victim.pages, identity: victim.identity)?.identity == victim.identity)
            } else {
                let start = PageNumber(random.next() % 500)
                let pages = start..<start.advanced(by: Int(1 + random.next() % (random.next() % 8 == 0 ? 300 : 10)))
                tree.insert(Payload(identity), pages: pages, identity: identity)
                model.append((pages, identity))
            }
            let start = PageNumber(random.next() % 520)
            let query = start..<start.advanced(by: Int(1 + random.next() % 20))
            let expected = model.filter { $0.pages.intersection(query) != nil }
                .sorted { ($0.pages.lowerBound, $0.identity) < ($1.pages.lowerBound, $1.identity) }
            #expect(overlapping(tree, query) == expected.map(\.identity), "seed \(seed)")
            #expect(tree.overlaps(query) == !expected.isEmpty)
            if identity % 100 == 0 { #expect(tree.checkInvariants().isEmpty, "seed \(seed)") }
        }
        for entry in model { #expect(tree.remove(pages: entry.pages, identity: entry.identity) != nil) }
        #expect(tree.isEmpty && tree.checkInvariants().isEmpty)
    }

    @Test("what is not there is not removed")
    func removalOfNothing() {
        var tree = IntervalTree<Payload>()
        let pages = PageNumber(1)..<PageNumber(2)
        #expect(tree.remove(pages: pages, identity: 1) == nil)
        tree.insert(Payload(1), pages: pages, identity: 1)
        #expect(tree.remove(pages: pages, identity: 2) == nil)
        #expect(tree.count == 1)
    }

    @Test("thousands of disjoint ranges, as small windows of a large device have them")
    func thousands() {
        var tree = IntervalTree<Payload>()
        for identity in 0..<20_000 as Range<UInt64> {
            let start = PageNumber(identity * 512)
            tree.insert(Payload(identity), pages: start..<start.advanced(by: 512), identity: identity)
        }
        #expect(tree.checkInvariants().isEmpty)
        #expect(overlapping(tree, PageNumber(511 * 512 + 511)..<PageNumber(513 * 512)) == [511, 512])
    }
}
