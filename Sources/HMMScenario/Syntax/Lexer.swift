/// A word of a line: what stands between blanks.
package struct Token: Hashable, Sendable {
    package var text: String
    package var position: SourcePosition

    /// The position of the `offset`-th scalar of the word.
    func position(at offset: Int) -> SourcePosition {
        SourcePosition(line: position.line, column: position.column + offset)
    }
}

/// A line that is not empty, as words.
struct SourceLine: Sendable {
    var tokens: [Token]
    /// Where a word that is missing at the end would have been.
    var end: SourcePosition
}

/// Cuts text into lines of words. `#` starts a comment, wherever it stands; blanks, tabs and a carriage return part
/// words; lines without words are left out.
enum Lexer {
    static func lines(of source: String) -> [SourceLine] {
        var lines: [SourceLine] = []
        var number = 0
        for line in source.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            number += 1
            if let words = words(of: Substring(line), number: number) { lines.append(words) }
        }
        return lines
    }

    private static func words(of line: Substring, number: Int) -> SourceLine? {
        var tokens: [Token] = []
        var word = String.UnicodeScalarView()
        var column = 1
        var wordColumn = 1
        var endColumn = 1
        func finishWord() {
            guard !word.isEmpty else { return }
            tokens.append(Token(text: String(word), position: SourcePosition(line: number, column: wordColumn)))
            word = .init()
            endColumn = column
        }
        for scalar in line.unicodeScalars {
            if scalar == "#" { break }
            switch scalar {
            case " ", "\t", "\r": finishWord()
            default:
                if word.isEmpty { wordColumn = column }
                word.append(scalar)
            }
            column += 1
        }
        finishWord()
        guard !tokens.isEmpty else { return nil }
        return SourceLine(tokens: tokens, end: SourcePosition(line: number, column: endColumn + 1))
    }
}
