/// What the shadow knows about a page.
enum PageContent: Hashable {
    /// The seed that it was written with; 0 for zeros.
    case known(UInt32)
    /// One of these: a write of which it is not known how far it came.
    case oneOf([UInt32])
    /// Something that was written there once, whole.
    case anything

    static let zero = PageContent.known(0)

    func admits(_ value: PageValue) -> Bool {
        guard let seed = Self.seed(of: value) else { return false }
        return switch self {
        case .known(let known): known == seed
        case .oneOf(let seeds): seeds.contains(seed)
        case .anything: true
        }
    }

    /// This or `other`.
    func or(_ other: PageContent) -> PageContent {
        guard let seeds, let others = other.seeds else { return .anything }
        let both = seeds + others.filter { !seeds.contains($0) }
        return both.count == 1 ? .known(both[0]) : .oneOf(both)
    }

    private var seeds: [UInt32]? {
        switch self {
        case .known(let seed): [seed]
        case .oneOf(let seeds): seeds
        case .anything: nil
        }
    }

    /// Nil for values that no page can hold.
    static func seed(of value: PageValue) -> UInt32? {
        switch value {
        case .seed(let seed): seed
        case .zero: 0
        case .torn, .segmentationFault, .busError: nil
        }
    }

    var text: String {
        switch self {
        case .known(let seed): String(seed)
        case .oneOf(let seeds): "one of " + seeds.map(String.init).joined(separator: ", ")
        case .anything: "anything whole"
        }
    }
}
