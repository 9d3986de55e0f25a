import HMM

/// Pages of a region, as written.
package struct RegionRange: Hashable, Sendable {
    package enum Part: Hashable, Sendable {
        case whole
        case page(Int)
        case pages(Range<Int>)
    }

    package var region: RegionID
    package var part: Part

    /// The pages meant, counted within the region.
    package func pages(in scenario: Scenario) -> Range<Int> {
        switch part {
        case .whole: 0..<scenario.regions[region.index].pageCount
        case .page(let page): page..<page + 1
        case .pages(let pages): pages
        }
    }
}

/// What `map` may be told beside the rights. All of them off is private anonymous memory.
package struct MapOptions: OptionSet, Hashable, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    package static let file = MapOptions(rawValue: 1)
    package static let shared = MapOptions(rawValue: 2)
    package static let hugepage = MapOptions(rawValue: 4)
    package static let hugetlb = MapOptions(rawValue: 8)

    /// In the order in which they are printed.
    static let words: [(word: String, option: MapOptions)] = [
        ("file", .file), ("shared", .shared), ("hugepage", .hugepage), ("hugetlb", .hugetlb),
    ]
}

/// The kind of a device's memory.
package enum DeviceKindName: String, CaseIterable, Sendable {
    case `private`, coherent
}

/// A value of a statement's parameter.
package enum Operand: Hashable, Sendable {
    /// A region that `map` makes.
    case newRegion(RegionID)
    /// A region and the fresh place where it goes.
    case move(RegionID, to: PageNumber)
    case range(RegionRange)
    case pages(Int)
    case protection(Protection)
    case mapOptions(MapOptions)
    case advice(Advice)
    case seed(UInt32)
    case process(ProcessID)
    case device(DeviceID)
    case deviceKind(DeviceKindName)
    case size(UInt64)
}

extension Operand {
    /// The operand as text; empty when nothing is written for it.
    func text(in scenario: Scenario) -> String {
        switch self {
        case .newRegion(let region), .move(let region, _): scenario.regions[region.index].name
        case .range(let range): range.text(in: scenario)
        case .pages(let count): String(count)
        case .protection(let protection): protection.word
        case .mapOptions(let options):
            MapOptions.words.filter { options.contains($0.option) }.map(\.word).joined(separator: " ")
        case .advice(let advice): advice.rawValue
        case .seed(let seed): String(seed)
        case .process(let process): scenario.processes[process.index]
        case .device(let device): scenario.devices[device.index].name
        case .deviceKind(let kind): kind.rawValue
        case .size(let bytes): ByteSize.text(bytes)
        }
    }
}

extension RegionRange {
    func text(in scenario: Scenario) -> String {
        let name = scenario.regions[region.index].name
        return switch part {
        case .whole: name
        case .page(let page): "\(name)[\(page)]"
        case .pages(let pages): "\(name)[\(pages.lowerBound)..<\(pages.upperBound)]"
        }
    }
}

extension Protection {
    /// The rights that the language knows, by their words.
    static let words: [(word: String, protection: Protection)] = [("none", .none), ("r", .read), ("rw", .readWrite)]

    var word: String { Protection.words.first { $0.protection == self }?.word ?? "none" }
}

/// Sizes in bytes, written with a binary suffix: `64M`.
enum ByteSize {
    private static let suffixes: [(letter: Character, shift: UInt64)] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)]

    static func text(_ bytes: UInt64) -> String {
        for (letter, shift) in suffixes where bytes != 0 && bytes & ((1 << shift) - 1) == 0 {
            return "\(bytes >> shift)\(letter)"
        }
        return String(bytes)
    }

    /// Nil when `text` is no size, or one that does not fit.
    static func parse(_ text: String) -> UInt64? {
        guard let last = text.last else { return nil }
        guard let suffix = suffixes.first(where: { $0.letter == last }) else { return decimal(text) }
        guard let count = decimal(String(text.dropLast())), count <= UInt64.max >> suffix.shift else { return nil }
        return count << suffix.shift
    }

    private static func decimal(_ text: String) -> UInt64? {
        text.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } ? UInt64(text) : nil
    }
}
