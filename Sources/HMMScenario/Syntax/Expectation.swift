/// What `expect` says: the result line of the statement before it is one of the alternatives.
///
/// An alternative is compared with the result as printed, without its line number. `*` stands for any text, the
/// empty one too. One `*` is literal: the one of a run, which stands between a value (a letter, a digit or `!`) and
/// a digit, as in `0*130`. So `expect ok pages=4 *` is a pattern, and `expect 0*130` is not.
package struct Expectation: Hashable, Sendable {
    package var position: SourcePosition
    package var alternatives: [String]

    package init(position: SourcePosition, alternatives: [String]) {
        self.position = position
        self.alternatives = alternatives
    }

    package var text: String { alternatives.joined(separator: "|") }

    package func matches(_ result: String) -> Bool {
        alternatives.contains { Pattern(expecting: $0).matches(result) }
    }
}

/// Text with wildcards.
package struct Pattern {
    private enum Element: Equatable {
        case byte(UInt8)
        case anyText
    }
    private var elements: [Element]

    private static let star = UInt8(ascii: "*")

    /// A pattern in which every `*` stands for any text.
    package init(glob text: String) {
        elements = text.utf8.map { $0 == Self.star ? .anyText : .byte($0) }
    }

    /// An alternative of `expect`: the `*` of a run is literal.
    package init(expecting text: String) {
        let bytes = Array(text.utf8)
        elements = bytes.indices.map { index in
            guard bytes[index] == Self.star else { return .byte(bytes[index]) }
            let isRun =
                index > 0 && index + 1 < bytes.count && Self.isValue(bytes[index - 1])
                && Self.isDigit(bytes[index + 1])
            return isRun ? .byte(Self.star) : .anyText
        }
    }

    private static func isDigit(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") }

    private static func isValue(_ byte: UInt8) -> Bool {
        let lowerCase = byte | 0x20
        return isDigit(byte) || byte == UInt8(ascii: "!")
            || (lowerCase >= UInt8(ascii: "a") && lowerCase <= UInt8(ascii: "z"))
    }

    package func matches(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        var position = 0
        var element = 0
        // Where to go on when what was tried fails: the last wildcard takes one byte more.
        var retryElement: Int?
        var retryPosition = 0
        while position < bytes.count {
            if element < elements.count, elements[element] == .anyText {
                retryElement = element
                retryPosition = position
                element += 1
            } else if element < elements.count, elements[element] == .byte(bytes[position]) {
                element += 1
                position += 1
            } else if let wildcard = retryElement {
                element = wildcard + 1
                retryPosition += 1
                position = retryPosition
            } else {
                return false
            }
        }
        return elements[element...].allSatisfy { $0 == .anyText }
    }
}
