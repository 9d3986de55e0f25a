import Foundation

/// The files of the package, read once for all checks.
enum PackageFiles {
    /// The root of the package: the folder that has the manifest.
    static let root: URL = {
        var folder = URL(filePath: #filePath).deletingLastPathComponent()
        while !FileManager.default.fileExists(atPath: folder.appending(path: "Package.swift").path) {
            folder.deleteLastPathComponent()
        }
        return folder
    }()

    /// Every text file, in the order of paths. Build products and the store of the version control are left out.
    static let all: [TextFile] = {
        var paths: [String] = []
        collect("", into: &paths)
        return paths.sorted().compactMap { path in
            guard let data = FileManager.default.contents(atPath: root.appending(path: path).path),
                let text = String(data: data, encoding: .utf8)
            else { return nil }
            return TextFile(path: path, lines: text.split(separator: "\n", omittingEmptySubsequences: false))
        }
    }()

    /// Every Swift file of Sources and Museum, taken apart.
    static let sources: [SwiftFile] = all.filter {
        ($0.path.hasPrefix("Sources/") || $0.path.hasPrefix("Museum/")) && $0.path.hasSuffix(".swift")
    }.map(SwiftFile.init)
    /// Those of the core.
    static let core: [SwiftFile] = sources.filter { $0.path.hasPrefix("Sources/HMM/") }
    static let tests: [SwiftFile] = all.filter { $0.path.hasPrefix("Tests/") && $0.path.hasSuffix(".swift") }
        .map(SwiftFile.init)
    static let documents: [TextFile] = all.filter { $0.path.hasSuffix(".md") }

    /// What each Swift file of Sources and Tests declares, by path.
    static let declarations: [String: Declarations] = Dictionary(
        uniqueKeysWithValues: (sources + tests).map { ($0.path, Declarations(of: $0)) })

    static func file(_ path: String) -> TextFile? { all.first { $0.path == path } }

    private static func collect(_ folder: String, into paths: inout [String]) {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: root.appending(path: folder).path)) ?? []
        for name in names where !isForeign(name) {
            let path = folder.isEmpty ? name : "\(folder)/\(name)"
            var isFolder: ObjCBool = false
            _ = FileManager.default.fileExists(atPath: root.appending(path: path).path, isDirectory: &isFolder)
            if isFolder.boolValue { collect(path, into: &paths) } else { paths.append(path) }
        }
    }

    /// What is not part of the package: products, editors' files, the version control.
    private static func isForeign(_ name: String) -> Bool {
        name == ".git" || name == ".swiftpm" || name == "Package.resolved" || name.hasPrefix(".build")
            || name.hasSuffix(".swp")
    }
}
