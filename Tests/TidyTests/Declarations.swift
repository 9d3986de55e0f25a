/// What a Swift file declares, as far as the checks here need it: types with their nesting, and functions with their
/// length. Found by words and braces; the code compiles, so that is enough.
struct Declarations {
    struct TypeName {
        /// With the types around it: `Outer.Inner`.
        let name: String
        let line: Int
        let isPublic: Bool
        let isTopLevel: Bool
    }

    struct Function {
        let name: String
        let line: Int
        let lineCount: Int
        /// The type or extension around it.
        let typeName: String
    }

    private(set) var types: [TypeName] = []
    private(set) var functions: [Function] = []

    /// What a brace opened.
    private enum Scope {
        case type(String)
        case function(name: String, line: Int)
        case other
    }

    private static let typeWords: Set = ["class", "struct", "enum", "protocol", "actor", "extension"]
    private static let functionWords: Set = ["func", "init", "deinit", "subscript"]
    private static let modifiers: Set = [
        "public", "package", "open", "final", "indirect", "private", "fileprivate", "internal", "nonisolated",
    ]
    /// What ends a declaration without a body.
    private static let declarationWords: Set = [
        "func", "init", "deinit", "subscript", "var", "let", "case", "class", "struct", "enum", "protocol", "actor",
        "extension", "typealias", "associatedtype", "static", "mutating", "public", "package", "private", "override",
    ]

    private let tokens: [SwiftFile.Token]
    private var scopes: [Scope] = []
    /// The scope that the next brace opens, and the parentheses that were open at its declaration.
    private var pending: (scope: Scope, depth: Int)?
    private var depth = 0

    init(of file: SwiftFile) {
        tokens = file.tokens
        for index in tokens.indices { visit(index) }
    }

    private func text(_ index: Int) -> String { tokens.indices.contains(index) ? tokens[index].text : "" }

    private mutating func visit(_ index: Int) {
        let token = tokens[index]
        switch token.text {
        case "(", "[": depth += 1
        case ")", "]": depth -= 1
        case "{": open()
        case "}": close(token.line)
        default:
            guard token.isWord, text(index - 1) != "." else { return }
            if case .function? = pending?.scope, pending?.depth == depth, Self.declarationWords.contains(token.text) {
                pending = nil
            }
            if Self.typeWords.contains(token.text) || token.text == "typealias" {
                declareType(index)
            } else if Self.functionWords.contains(token.text) {
                declareFunction(index)
            }
        }
    }

    private mutating func open() {
        if let next = pending, next.depth == depth {
            scopes.append(next.scope)
            pending = nil
        } else {
            scopes.append(.other)
        }
    }

    private mutating func close(_ line: Int) {
        pending = nil
        guard case .function(let name, let first)? = scopes.popLast() else { return }
        functions.append(
            Function(name: name, line: first, lineCount: line - first + 1, typeName: outerTypes.last ?? ""))
    }

    private var outerTypes: [String] {
        scopes.compactMap { if case .type(let name) = $0 { name } else { nil } }
    }

    private var isInType: Bool { if case .type? = scopes.last { true } else { false } }

    private mutating func declareType(_ index: Int) {
        let keyword = text(index)
        var last = index + 1
        // `class func`, `class var`: no type. `any class`: neither.
        guard tokens.indices.contains(last), tokens[last].isWord, !Self.declarationWords.contains(text(last)) else {
            return
        }
        while text(last + 1) == ".", tokens.indices.contains(last + 2), tokens[last + 2].isWord { last += 2 }
        let own = tokens[(index + 1)...last].map(\.text).joined()
        let isLocal = scopes.contains { if case .type = $0 { false } else { true } }
        let name = (outerTypes.last.map { $0 + "." } ?? "") + own
        if !isLocal, keyword != "extension" {
            types.append(
                TypeName(
                    name: name, line: tokens[index].line, isPublic: isPublic(before: index),
                    isTopLevel: outerTypes.isEmpty))
        }
        if keyword != "typealias" { pending = (.type(name), depth) }
    }

    private mutating func declareFunction(_ index: Int) {
        let keyword = text(index)
        // The other words are declarations only where types have their members.
        guard keyword == "func" || isInType else { return }
        let name = keyword == "func" ? text(index + 1) : keyword
        pending = (.function(name: name, line: tokens[index].line), depth)
    }

    private func isPublic(before index: Int) -> Bool {
        var at = index - 1
        var isPublic = false
        while at >= 0, Self.modifiers.contains(text(at)) {
            isPublic = isPublic || text(at) == "public" || text(at) == "open"
            at -= 1
        }
        return isPublic
    }
}
