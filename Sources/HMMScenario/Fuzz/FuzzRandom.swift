/// The numbers of the fuzzer: the same for a seed on every machine (SplitMix64; Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators"). Chances are ratios of whole numbers, so nothing depends on rounding.
struct FuzzRandom {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0xd134_2543_de82_ef95 &+ 0x2545_f491_4f6c_dd1d }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ word >> 30) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb
        return word ^ word >> 31
    }

    /// A number below `bound`.
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

    mutating func number(in range: ClosedRange<Int>) -> Int { range.lowerBound + below(range.count) }

    /// True in `hits` of `outOf` cases.
    mutating func chance(_ hits: Int, outOf: Int) -> Bool { below(outOf) < hits }

    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }

    mutating func pick<Element>(weighted elements: [(Element, weight: Int)]) -> Element {
        var left = below(elements.reduce(0) { $0 + $1.weight })
        for (element, weight) in elements {
            if left < weight { return element }
            left -= weight
        }
        preconditionFailure("weights that do not add up")
    }
}
