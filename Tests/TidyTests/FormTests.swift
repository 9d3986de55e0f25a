import Foundation
import Testing

/// Sizes, and what is written beside what cannot be checked.
@Suite("Form")
struct FormTests {
    static let longestFile = 400
    static let longestFunction = 70
    static let longestLine = 120

    private static var written: [TextFile] {
        PackageFiles.all.filter { file in [".swift", ".c", ".h"].contains { file.path.hasSuffix($0) } }
    }

    @Test("files are short enough to be read in one go")
    func filesAreShort() {
        report(
            Self.written.filter { $0.lines.count - 1 > Self.longestFile }
                .map { "\($0.place(Self.longestFile)): \($0.lines.count - 1) lines, at most \(Self.longestFile)" })
    }

    @Test("functions are short")
    func functionsAreShort() {
        var findings: [String] = []
        for file in PackageFiles.sources + PackageFiles.tests {
            for function in PackageFiles.declarations[file.path]!.functions
            where function.lineCount > Self.longestFunction {
                let size = "\(function.lineCount) lines, at most \(Self.longestFunction)"
                findings.append("\(file.file.place(function.line)): \(function.name) has \(size)")
            }
        }
        report(findings)
    }

    @Test("lines fit, and end without blanks")
    func linesFit() {
        var findings: [String] = []
        for file in Self.written {
            for (index, line) in file.lines.enumerated() {
                if line.utf8.count > Self.longestLine, line.count > Self.longestLine {
                    findings.append("\(file.place(index + 1)): \(line.count) columns, at most \(Self.longestLine)")
                }
                if line.last == " " || line.last == "\t" {
                    findings.append("\(file.place(index + 1)): blanks at the end of the line")
                }
                if line.contains("\t") { findings.append("\(file.place(index + 1)): a tab") }
            }
        }
        report(findings)
    }

    /// Words by which a comment names a lock, or says why none is needed.
    static let reasons = [
        "lock", "guard", "immutable", "mutex", "atomic", "SAFETY", "thread", "owner", "once", "pinned",
    ]
    static let linesBefore = 8
    static let linesAfter = 24

    @Test("what is Sendable by promise says by which lock, or why")
    func promisesHaveReasons() {
        var findings: [String] = []
        for file in PackageFiles.sources {
            for index in file.tokens.indices where Self.isPromise(file.tokens, index) {
                let line = file.tokens[index].line
                guard !Self.hasReason(file, line) else { continue }
                findings.append("\(file.file.place(line)): no comment near says which lock guards this, or why none is")
            }
        }
        report(findings)
    }

    private static func isPromise(_ tokens: [SwiftFile.Token], _ index: Int) -> Bool {
        func text(_ offset: Int) -> String { index + offset < tokens.count ? tokens[index + offset].text : "" }
        return text(0) == "@" && text(1) == "unchecked" && text(2) == "Sendable"
            || text(0) == "nonisolated" && text(1) == "(" && text(2) == "unsafe"
    }

    private static func hasReason(_ file: SwiftFile, _ line: Int) -> Bool {
        var first = max(1, line - linesBefore)
        // The whole of a comment that stands right before the declaration.
        while first > 1, !file.comments[first - 2].allSatisfy(\.isWhitespace) { first -= 1 }
        let last = min(file.comments.count, line + linesAfter)
        return file.comments[(first - 1)..<last].contains { comment in
            reasons.contains { comment.range(of: $0, options: .caseInsensitive) != nil }
        }
    }

    @Test("nothing names the machine that it was written on")
    func noMachineIsNamed() {
        // In pieces, so that this file is not its own finding.
        var traces = ["work", "root", "home", "Users", "tmp"].map { "/" + $0 + "/" }
        let home = FileManager.default.homeDirectoryForCurrentUser.path
        if home.count > 6 { traces.append(home) }
        let host = ProcessInfo.processInfo.hostName
        // A name that could also be a word proves nothing.
        if host.count >= 6, host.contains(where: \.isNumber), host != "localhost" { traces.append(host) }
        var findings: [String] = []
        for file in PackageFiles.all {
            for (index, line) in file.lines.enumerated() where line.contains("/") || line.contains(host) {
                for trace in traces where line.contains(trace) {
                    findings.append("\(file.place(index + 1)): \(trace) belongs to one machine")
                }
            }
        }
        report(findings)
    }

    @Test("the checks read what they are meant to read")
    func checksSeeThePackage() {
        #expect(PackageFiles.core.count > 50)
        #expect(PackageFiles.documents.count > 5)
        let functions = PackageFiles.sources.flatMap { PackageFiles.declarations[$0.path]!.functions }
        #expect(functions.count > 500)
        #expect(functions.contains { $0.name == "readBegin" && $0.typeName == "IntervalNotifier" })
    }
}
