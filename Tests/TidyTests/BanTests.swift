import Testing

/// Words and calls that do not occur, and why.
@Suite("What does not occur")
struct BanTests {
    struct Ban {
        /// Words that follow each other in the code; a trailing `*` matches any end of a word.
        let words: [String]
        /// Where it holds: prefixes of paths.
        let places: [String]
        /// Where it does not hold all the same.
        var exceptions: [String] = []
        let reason: String
    }

    static let bans: [Ban] = [
        Ban(words: ["@", "discardableResult"], places: ["Sources/HMM/"], reason: "results of the core are used"),
        Ban(words: ["hashValue"], places: ["Sources/"], reason: "differs from run to run"),
        Ban(words: ["ObjectIdentifier"], places: ["Sources/"], reason: "an address is no order"),
        Ban(words: ["print", "("], places: ["Sources/HMM/", "Sources/HMMScenario/"], reason: "libraries do not print"),
        Ban(words: ["debugPrint", "("], places: ["Sources/"], reason: "left over from a search"),
        Ban(words: ["pthread_*"], places: ["Sources/"], exceptions: sync, reason: "threads come from Sync/"),
        Ban(words: ["Thread", "("], places: ["Sources/"], exceptions: sync, reason: "threads come from Sync/"),
        Ban(words: ["Task", "{"], places: ["Sources/"], exceptions: sync, reason: "threads come from Sync/"),
        Ban(words: ["Task", "."], places: ["Sources/"], exceptions: sync, reason: "threads come from Sync/"),
        Ban(words: ["DispatchQueue"], places: ["Sources/"], reason: "threads come from Sync/"),
        Ban(words: ["Mutex", "("], places: ["Sources/HMM/"], reason: "locks come from Sync/, with a class"),
        Ban(words: ["clock_gettime*"], places: core, exceptions: sync, reason: "time comes from SyncClock"),
        Ban(words: ["ContinuousClock"], places: core, exceptions: sync, reason: "time comes from SyncClock"),
        Ban(words: ["SuspendingClock"], places: core, exceptions: sync, reason: "time comes from SyncClock"),
        Ban(words: ["nanosleep"], places: core, exceptions: sync, reason: "time comes from SyncClock"),
        Ban(words: ["usleep"], places: core, exceptions: sync, reason: "time comes from SyncClock"),
        Ban(words: ["sched_yield"], places: core, exceptions: sync, reason: "giving way is a scheduling point"),
        Ban(words: ["SystemRandomNumberGenerator"], places: core, reason: "randomness comes from SyncRandom"),
        Ban(words: [".", "random", "("], places: core, exceptions: sync, reason: "randomness comes from SyncRandom"),
        Ban(words: [".", "shuffled", "("], places: core, reason: "randomness comes from SyncRandom"),
        Ban(words: ["arc4random*"], places: core, reason: "randomness comes from SyncRandom"),
    ]
    private static let core = ["Sources/HMM/", "Sources/HMMScenario/"]
    private static let sync = ["Sources/HMM/Sync/"]

    @Test("calls that go round the seams of the core, or make runs differ")
    func bannedWords() {
        var findings: [String] = []
        for file in PackageFiles.sources {
            let bans = Self.bans.filter { ban in
                ban.places.contains { file.path.hasPrefix($0) } && !ban.exceptions.contains { file.path.hasPrefix($0) }
            }
            for ban in bans { findings += Self.occurrences(of: ban, in: file) }
        }
        report(findings)
    }

    private static func occurrences(of ban: Ban, in file: SwiftFile) -> [String] {
        var findings: [String] = []
        let tokens = file.tokens
        for start in tokens.indices where Self.matches(tokens[start].text, ban.words[0]) {
            let isMatch = ban.words.indices.allSatisfy {
                start + $0 < tokens.count && Self.matches(tokens[start + $0].text, ban.words[$0])
            }
            guard isMatch else { continue }
            // A member or a declaration of the same name is something else.
            let before = start > 0 ? tokens[start - 1].text : ""
            if ban.words[0] != ".", ban.words[0] != "@", [".", "func", "case", "struct", "class"].contains(before) {
                continue
            }
            findings.append("\(file.file.place(tokens[start].line)): \(ban.words.joined()): \(ban.reason)")
        }
        return findings
    }

    private static func matches(_ text: String, _ pattern: String) -> Bool {
        pattern.hasSuffix("*") ? text.hasPrefix(pattern.dropLast()) : text == pattern
    }

    // In pieces, so that this file is not its own finding.
    static let unfinished = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]

    @Test("nothing is left unfinished")
    func nothingIsUnfinished() {
        var findings: [String] = []
        for file in PackageFiles.all where Self.isProse(file.path) {
            for (index, line) in file.lines.enumerated() {
                for word in Self.unfinished where Self.contains(line, word) {
                    findings.append("\(file.place(index + 1)): \(word): nothing that is promised may be left open")
                }
                if line.contains("fatalError(\"not impl") || line.contains("fatalError(\"unimpl") {
                    findings.append("\(file.place(index + 1)): a stub")
                }
            }
        }
        report(findings)
    }

    /// Whether the word stands by itself: `x` runs of a bit pattern do not count.
    private static func contains(_ line: Substring, _ word: String) -> Bool {
        line.contains(word)
            && line.split(whereSeparator: { !$0.isLetter && !$0.isNumber && $0 != "_" }).contains { $0 == word }
    }

    private static func isProse(_ path: String) -> Bool {
        !path.hasPrefix("Tests/TidyTests/") && !path.hasPrefix("Conformance/") && !path.hasSuffix(".hmm")
    }
}
