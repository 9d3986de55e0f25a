import Foundation
import Testing

/// The documents say what is there: links lead somewhere, names exist, and every public noun is explained.
@Suite("Documentation")
struct DocumentationTests {
    @Test("every link leads to a file or a heading that exists")
    func linksResolve() {
        var findings: [String] = []
        for document in PackageFiles.documents {
            for link in Markdown.links(of: document) where !link.target.contains("://") {
                if let problem = Self.problem(of: link.target, in: document) {
                    findings.append("\(document.place(link.line)): \(link.target): \(problem)")
                }
            }
        }
        report(findings)
    }

    private static func problem(of target: String, in document: TextFile) -> String? {
        let parts = target.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false)
        var path = document.path
        if !parts[0].isEmpty {
            let folder = document.path.split(separator: "/").dropLast()
            guard let resolved = resolve(String(parts[0]), from: folder.map(String.init)) else {
                return "leads out of the package"
            }
            path = resolved
            guard FileManager.default.fileExists(atPath: PackageFiles.root.appending(path: path).path) else {
                return "no such file"
            }
        }
        guard parts.count == 2 else { return nil }
        guard let target = PackageFiles.file(path) else { return "no such document" }
        return Markdown.anchors(of: target).contains(String(parts[1])) ? nil : "no such heading"
    }

    private static func resolve(_ target: String, from folder: [String]) -> String? {
        var parts = folder
        for part in target.split(separator: "/") {
            if part == ".." {
                guard !parts.isEmpty else { return nil }
                parts.removeLast()
            } else if part != "." {
                parts.append(String(part))
            }
        }
        return parts.joined(separator: "/")
    }

    @Test("paths and tests that documents name exist")
    func namesExist() {
        let paths = Set(PackageFiles.all.map(\.path))
        var tests: [String: Set<String>] = [:]
        for file in PackageFiles.tests {
            for function in PackageFiles.declarations[file.path]!.functions {
                tests[function.typeName, default: []].insert(function.name)
            }
        }
        var findings: [String] = []
        for document in PackageFiles.documents where !document.path.hasPrefix("Conformance/") {
            for word in Markdown.codeWords(of: document) {
                let folder = document.path.prefix(upTo: document.name.startIndex)
                if paths.contains(folder + word.target) { continue }
                if let problem = Self.problem(ofName: word.target, paths: paths, tests: tests) {
                    findings.append("\(document.place(word.line)): \(word.target): \(problem)")
                }
            }
        }
        report(findings)
    }

    private static let shownFiles = [".swift", ".hmm", ".expected", ".md", ".c", ".h"]

    private static func problem(ofName name: String, paths: Set<String>, tests: [String: Set<String>]) -> String? {
        if name.contains("/"), !name.contains("*"), !name.contains(" "), shownFiles.contains(where: name.hasSuffix) {
            // Kernel files are named as such.
            let kernel = ["mm/", "lib/", "include/", "kernel/", "tools/", "drivers/"]
            if kernel.contains(where: name.hasPrefix) { return nil }
            let candidates = [name, "Sources/HMM/\(name)", "Sources/\(name)", "Tests/HMMTests/\(name)"]
            return candidates.contains { paths.contains($0) } ? nil : "no such file"
        }
        let parts = name.split(separator: ".")
        if parts.count == 2, parts[0].hasSuffix("Tests"), let suite = tests[String(parts[0])] {
            return suite.contains(String(parts[1])) ? nil : "no such test"
        }
        if parts.count == 2, parts[0].hasSuffix("Tests"), !shownFiles.contains(where: name.hasSuffix) {
            return "no such suite"
        }
        return nil
    }

    /// The files of the libraries that others use.
    private static let libraries = PackageFiles.sources.filter { file in
        ["Sources/HMM/", "Sources/HMMExplorer/", "Sources/HMMLive/"].contains { file.path.hasPrefix($0) }
    }

    @Test("every public type of the libraries is in the glossary")
    func glossaryIsComplete() throws {
        let glossary = try #require(PackageFiles.file("Documentation/glossary.md"))
        let known = Set(Markdown.codeWords(of: glossary).map(\.target))
        var findings: [String] = []
        for file in Self.libraries {
            for type in PackageFiles.declarations[file.path]!.types where type.isPublic && !known.contains(type.name) {
                findings.append("\(file.file.place(type.line)): \(type.name) is not in \(glossary.path)")
            }
        }
        report(findings)
    }

    @Test("code in a document is code of a test, so that it compiles", arguments: [
        ("README.md", "Tests/HMMTests/Examples/"),
        ("Documentation/exploring.md", "Tests/HMMExplorerTests/TutorialTests.swift"),
    ])
    func shownCodeIsTested(document: String, place: String) throws {
        let document = try #require(PackageFiles.file(document))
        let sources = PackageFiles.all.filter { $0.path.hasPrefix(place) }
            .map { "\n" + $0.lines.joined(separator: "\n") + "\n" }
        let blocks = Markdown.codeBlocks(of: document, language: "swift")
        #expect(!blocks.isEmpty)
        var findings: [String] = []
        for block in blocks {
            let text = "\n" + block.target + "\n"
            if !sources.contains(where: { $0.contains(text) }) {
                findings.append("\(document.place(block.line)): this code is not in \(place)")
            }
        }
        report(findings)
    }

    @Test("the glossary explains nothing that is gone")
    func glossaryIsCurrent() throws {
        let glossary = try #require(PackageFiles.file("Documentation/glossary.md"))
        var names: Set<String> = []
        for file in Self.libraries {
            names.formUnion(PackageFiles.declarations[file.path]!.types.map(\.name))
        }
        var findings: [String] = []
        for (index, line) in glossary.lines.enumerated() where line.hasPrefix("| `") {
            let name = line.dropFirst(3).prefix { $0 != "`" }
            if !names.contains(String(name)) {
                findings.append("\(glossary.place(index + 1)): \(name) is no type of the libraries")
            }
        }
        report(findings)
    }

    @Test("every decision is in the list of decisions, and every document is linked")
    func documentsAreLinked() {
        var linked: Set<String> = []
        for document in PackageFiles.documents {
            let folder = document.path.split(separator: "/").dropLast().map(String.init)
            for link in Markdown.links(of: document) where !link.target.contains("://") {
                let path = link.target.prefix { $0 != "#" }
                if let resolved = Self.resolve(String(path), from: folder) { linked.insert(resolved) }
            }
        }
        report(
            PackageFiles.documents.map(\.path).filter { $0.hasPrefix("Documentation/") && !linked.contains($0) }
                .map { "\($0):1: no document links to it" })
    }

    /// Where each case of a choice must be explained.
    @Test("switches, warts and lock classes are documented", arguments: [
        ("Sources/HMM/KernelProfile.swift", "public var", "Documentation/kernel-profiles.md"),
        ("Sources/HMM/Devices/DmirrorDevice.swift", "= DmirrorWarts(rawValue", "Documentation/kernel-profiles.md"),
        ("Sources/HMM/Sync/LockClass.swift", "= LockClass(rank", "Documentation/locking.md"),
    ])
    func choicesAreDocumented(source: String, mark: String, document: String) throws {
        let source = try #require(PackageFiles.file(source))
        let document = try #require(PackageFiles.file(document))
        let known = Set(Markdown.codeWords(of: document).map(\.target))
        var findings: [String] = []
        for (index, line) in source.lines.enumerated() where line.contains(mark) {
            let words = line.split(whereSeparator: { " :=".contains($0) })
            guard let at = words.firstIndex(where: { $0 == "let" || $0 == "var" }) else { continue }
            let name = String(words[at + 1])
            if name != "name", !known.contains(name) {
                findings.append("\(source.place(index + 1)): \(name) is not in \(document.path)")
            }
        }
        #expect(source.lines.contains { $0.contains(mark) })
        report(findings)
    }
}
