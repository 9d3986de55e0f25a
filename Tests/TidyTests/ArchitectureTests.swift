import Testing

/// Which part may know which: the folders of the core are its architecture, and the compiler does not see them.
@Suite("Who may know whom")
struct ArchitectureTests {
    /// The folders of Sources/HMM, lowest first. The files beside them stand below all.
    static let folders = [
        "", "Sync", "Frames", "PageTables", "Notifiers", "AddressSpace", "HugeTLB", "RangeFault", "Mirror",
        "Migration", "Exclusive", "Devices",
    ]

    /// The modules that the files of a place may import, by the longest prefix of the path.
    static let imports: [String: Set<String>] = [
        "Sources/HMM/": ["Synchronization"],
        "Sources/HMM/Sync/": ["Synchronization", "CLinux"],
        // Address space for the arenas comes from the host.
        "Sources/HMM/Frames/HostMemory.swift": ["Glibc"],
        "Sources/HMM/Mirror/DirectoryPool.swift": ["Glibc", "Synchronization"],
        "Sources/HMM/Mirror/DirectoryRegion.swift": ["Glibc", "Synchronization"],
        "Sources/HMMScenario/": ["HMM", "Synchronization"],
        "Sources/HMMScenario/Files/": ["HMM", "Glibc"],
        "Sources/HMMExplorer/": ["HMM", "HMMScenario", "Synchronization"],
        "Sources/HMMLive/": ["HMM", "CLive", "Glibc", "Synchronization"],
        "Sources/HMMLivePlay/": ["HMM", "HMMScenario", "HMMLive", "CLive", "CLivePlay", "Glibc", "Synchronization"],
        "Sources/HMMPreload/": ["HMM", "HMMLive", "CLive", "CPreload", "Glibc", "Synchronization"],
        "Museum/": ["HMM", "HMMExplorer", "Synchronization"],
        "Sources/hmm/Bench/": [
            "HMM", "HMMScenario", "HMMExplorer", "HMMLive", "CLive", "CBench", "ArgumentParser", "Glibc",
            "Synchronization",
        ],
        "Sources/hmm/Bench/Live/": ["HMM", "HMMLive", "CLive", "CBench", "Glibc"],
        "Sources/hmm/Doctor/": ["HMM", "HMMScenario", "HMMLive", "CLive", "Glibc"],
        "Sources/hmm/": [
            "HMM", "HMMScenario", "HMMExplorer", "HMMLive", "HMMLivePlay", "CLive", "Museum", "ArgumentParser",
            "Logging", "Glibc", "Synchronization",
        ],
    ]

    private static func folder(of path: String) -> String {
        let parts = path.split(separator: "/")
        return parts.count > 3 ? String(parts[2]) : ""
    }

    @Test("a file of the core names only types of its own folder and of lower ones")
    func foldersKnowOnlyLowerOnes() {
        var height: [String: Int] = [:]
        for file in PackageFiles.core {
            let rank = Self.folders.firstIndex(of: Self.folder(of: file.path)) ?? 0
            for type in PackageFiles.declarations[file.path]!.types where type.isTopLevel {
                height[type.name] = rank
            }
        }
        var findings: [String] = []
        for file in PackageFiles.core {
            let own = Self.folders.firstIndex(of: Self.folder(of: file.path)) ?? 0
            var named: Set<String> = []
            for token in file.tokens {
                guard let other = height[token.text], other > own, named.insert(token.text).inserted else { continue }
                findings.append(
                    "\(file.file.place(token.line)): names \(token.text) of \(Self.folders[other])/, which is higher")
            }
        }
        report(findings)
    }

    /// INV-DM-11. Types are checked; of members the compiler would have to be asked.
    @Test("drivers name only public types of the core")
    func driversUseThePublicSurface() {
        var hidden: Set<String> = []
        for file in PackageFiles.core where Self.folder(of: file.path) != "Devices" {
            for type in PackageFiles.declarations[file.path]!.types where type.isTopLevel && !type.isPublic {
                hidden.insert(type.name)
            }
        }
        var findings: [String] = []
        for file in PackageFiles.core where Self.folder(of: file.path) == "Devices" {
            // Checks of invariants look behind the surface: they compare with the CPU's tables.
            if file.path.hasSuffix("+Invariants.swift") { continue }
            var named: Set<String> = []
            for token in file.tokens where hidden.contains(token.text) && named.insert(token.text).inserted {
                findings.append("\(file.file.place(token.line)): \(token.text) is not public")
            }
        }
        report(findings)
    }

    @Test("every folder of the core has its place in the order")
    func everyFolderHasAPlace() {
        let unknown = Set(PackageFiles.core.map { Self.folder(of: $0.path) }).subtracting(Self.folders)
        report(unknown.sorted().map { "Sources/HMM/\($0):1: a folder without a place in the order" })
    }

    @Test("a file imports only what its place may")
    func importsAreListed() {
        var findings: [String] = []
        for file in PackageFiles.sources {
            let rule = Self.imports.filter { file.path.hasPrefix($0.key) }.max { $0.key.count < $1.key.count }
            for (index, token) in file.tokens.enumerated() where token.text == "import" {
                // `import struct Module.Name` and the like do not occur; an access level stands before the word.
                let module = file.tokens[index + 1]
                guard module.line == token.line, rule?.value.contains(module.text) != true else { continue }
                findings.append("\(file.file.place(token.line)): imports \(module.text), which this place does not")
            }
        }
        report(findings)
    }
}
