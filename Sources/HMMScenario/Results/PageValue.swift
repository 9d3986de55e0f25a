import HMM

/// What a page holds, as scenarios see it.
package enum PageValue: Hashable, Sendable {
    /// All words come from this seed.
    case seed(UInt32)
    /// All words are zero.
    case zero
    /// The words do not belong together.
    case torn
    /// The access got SIGSEGV.
    case segmentationFault
    /// The access got SIGBUS.
    case busError

    package var text: String {
        switch self {
        case .seed(let seed): String(seed)
        case .zero: "0"
        case .torn: "x"
        case .segmentationFault: "!"
        case .busError: "B"
        }
    }
}

/// The pattern that scenarios write: word w of page p, counted in the region, is `seed << 40 | p << 12 | w`.
package enum PagePattern {
    @inline(__always) package static func word(seed: UInt32, page: Int, word: Int) -> UInt64 {
        UInt64(seed) << 40 | UInt64(page) << 12 | UInt64(word)
    }

    /// Fills the words of a page.
    package static func fill(_ words: UnsafeMutableBufferPointer<UInt64>, seed: UInt32, page: Int) {
        let first = word(seed: seed, page: page, word: 0)
        for index in words.indices { words[index] = first | UInt64(index) }
    }

    /// What the words of a page say. Words that belong to another page are torn.
    package static func value(of words: UnsafeBufferPointer<UInt64>, page: Int) -> PageValue {
        let first = words[0]
        let seed = UInt32(truncatingIfNeeded: first >> 40)
        // Collecting differences keeps the loop free of branches, so that it vectorises.
        var notZero: UInt64 = 0
        var difference: UInt64 = 0
        let base = word(seed: seed, page: page, word: 0)
        for index in words.indices {
            notZero |= words[index]
            difference |= words[index] ^ (base | UInt64(index))
        }
        if notZero == 0 { return .zero }
        return difference == 0 && seed != 0 ? .seed(seed) : .torn
    }
}
