import Foundation

/// A text file of the package, by lines.
struct TextFile {
    /// From the root of the package, with forward slashes.
    let path: String
    let lines: [Substring]

    var name: Substring { path.split(separator: "/").last ?? "" }

    /// The place of a line, in the form that editors open.
    func place(_ line: Int) -> String { "\(path):\(line)" }
}

/// A Swift file, taken apart: what is code, and what is comment. String literals belong to neither; code inside an
/// interpolation is code.
struct SwiftFile {
    let file: TextFile
    /// The words and signs of the code.
    let tokens: [Token]
    /// The comments of each line; line 1 is at index 0.
    let comments: [String]
    /// The code of each line, with blanks where comments and literals were.
    let code: [String]

    var path: String { file.path }

    struct Token {
        let text: String
        let line: Int
        var isWord: Bool { text.utf8.first.map { $0 == 0x5f || $0 >= 0x41 } ?? false }
    }

    init(_ file: TextFile) {
        self.file = file
        var splitter = Splitter(file.lines.joined(separator: "\n"))
        splitter.run()
        code = splitter.code.split(separator: 0x0a, omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
        comments = splitter.comment.split(separator: 0x0a, omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
        tokens = Self.tokens(of: splitter.code)
    }

    private static func tokens(of code: [UInt8]) -> [Token] {
        var tokens: [Token] = []
        var line = 1
        var at = 0
        while at < code.count {
            let byte = code[at]
            if byte == 0x0a { line += 1 }
            if isWordByte(byte) {
                let start = at
                while at < code.count, isWordByte(code[at]) { at += 1 }
                tokens.append(Token(text: String(decoding: code[start..<at], as: UTF8.self), line: line))
                continue
            }
            if byte > 0x20 { tokens.append(Token(text: String(UnicodeScalar(byte)), line: line)) }
            at += 1
        }
        return tokens
    }

    private static func isWordByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, 0x5f, 0x80...: true
        default: false
        }
    }
}

/// Copies a text twice, once with only its code left and once with only its comments.
private struct Splitter {
    private enum Mode {
        /// Code; inside an interpolation with the number of open parentheses.
        case code(parentheses: Int?)
        case literal(hashes: Int, isMultiline: Bool)
    }

    private let text: [UInt8]
    private var at = 0
    private var modes: [Mode] = [.code(parentheses: nil)]
    private(set) var code: [UInt8] = []
    private(set) var comment: [UInt8] = []

    init(_ text: String) {
        self.text = Array(text.utf8)
        code.reserveCapacity(self.text.count)
        comment.reserveCapacity(self.text.count)
    }

    mutating func run() {
        while at < text.count {
            switch modes[modes.count - 1] {
            case .code(let parentheses): stepInCode(parentheses)
            case .literal(let hashes, let isMultiline): stepInLiteral(hashes, isMultiline)
            }
        }
    }

    private func byte(_ offset: Int) -> UInt8 { at + offset < text.count ? text[at + offset] : 0 }

    private enum Part { case code, comment, neither }

    private mutating func take(_ part: Part, _ count: Int = 1) {
        for _ in 0..<min(count, text.count - at) {
            let byte = text[at]
            code.append(byte == 0x0a || part == .code ? byte : 0x20)
            comment.append(byte == 0x0a || part == .comment ? byte : 0x20)
            at += 1
        }
    }

    private mutating func stepInCode(_ parentheses: Int?) {
        let now = byte(0)
        if now == UInt8(ascii: "/"), byte(1) == UInt8(ascii: "/") {
            while at < text.count, byte(0) != 0x0a { take(.comment) }
        } else if now == UInt8(ascii: "/"), byte(1) == UInt8(ascii: "*") {
            takeBlockComment()
        } else if let hashes = hashesBeforeQuote() {
            let isMultiline = (0..<3).allSatisfy { byte(hashes + $0) == UInt8(ascii: "\"") }
            take(.neither, hashes + (isMultiline ? 3 : 1))
            modes.append(.literal(hashes: hashes, isMultiline: isMultiline))
        } else {
            if let open = parentheses { countParenthesis(now, open) }
            take(.code)
        }
    }

    private mutating func countParenthesis(_ byte: UInt8, _ open: Int) {
        guard byte == UInt8(ascii: "(") || byte == UInt8(ascii: ")") else { return }
        let left = byte == UInt8(ascii: "(") ? open + 1 : open - 1
        modes.removeLast()
        if left > 0 { modes.append(.code(parentheses: left)) }
    }

    private mutating func takeBlockComment() {
        var depth = 0
        repeat {
            let isOpen = byte(0) == UInt8(ascii: "/") && byte(1) == UInt8(ascii: "*")
            let isClose = byte(0) == UInt8(ascii: "*") && byte(1) == UInt8(ascii: "/")
            depth += isOpen ? 1 : isClose ? -1 : 0
            take(.comment, isOpen || isClose ? 2 : 1)
        } while depth > 0 && at < text.count
    }

    /// The number of `#` before a quote that starts here, or nil when none does.
    private func hashesBeforeQuote() -> Int? {
        var hashes = 0
        while byte(hashes) == UInt8(ascii: "#") { hashes += 1 }
        return byte(hashes) == UInt8(ascii: "\"") ? hashes : nil
    }

    private mutating func stepInLiteral(_ hashes: Int, _ isMultiline: Bool) {
        let now = byte(0)
        let isEscape = now == UInt8(ascii: "\\") && (0..<hashes).allSatisfy { byte(1 + $0) == UInt8(ascii: "#") }
        if isEscape, byte(1 + hashes) == UInt8(ascii: "(") {
            take(.neither, 1 + hashes)
            take(.code)
            modes.append(.code(parentheses: 1))
        } else if isEscape {
            take(.neither, 2 + hashes)
        } else if isEnd(hashes, isMultiline) {
            take(.neither, (isMultiline ? 3 : 1) + hashes)
            modes.removeLast()
        } else {
            // A literal on one line ends there whatever happens, so that a mistake here stays local.
            if now == 0x0a, !isMultiline { modes.removeLast() }
            take(.neither)
        }
    }

    private func isEnd(_ hashes: Int, _ isMultiline: Bool) -> Bool {
        let quotes = isMultiline ? 3 : 1
        return (0..<quotes).allSatisfy { byte($0) == UInt8(ascii: "\"") }
            && (0..<hashes).allSatisfy { byte(quotes + $0) == UInt8(ascii: "#") }
    }
}
