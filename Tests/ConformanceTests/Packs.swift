import HMMScenario
import Testing

/// The recordings that the model must reproduce. The one place where that is said: a family that is not listed here
/// is not checked, and a scenario left out is named with its reason.
enum Packs {
    /// Families that agree in full.
    static let complete = ["access", "fork", "move", "pageout", "protect", "shmem"]

    /// Families of which only the scenarios without these words are played, because the parts are not there.
    static let partial = [
        "coherent", "collapse", "cow", "exclusive", "file", "huge", "hugecow", "hugetlb", "migrate", "mixed", "multi",
        "remap", "swap",
    ]
    static let missing = ["migrate", "evict", "exclusive", "release", "hugepage", "hugetlb", "collapse"]

    /// Conformance/linux-6.12, beside Tests.
    static let directory =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Conformance/linux-6.12"

    static let recordings: [RecordedCase] = {
        do {
            let whole = try complete.flatMap { try Recording.family($0, in: directory) }
            let parts = try partial.flatMap { try Recording.family($0, in: directory) }.filter(isPlayable)
            return (whole + parts).map(RecordedCase.init)
        } catch {
            fatalError("the recordings cannot be read: \(error)")
        }
    }()

    private static func isPlayable(_ recording: Recording) -> Bool {
        let words = recording.scenario.text.split { $0 == " " || $0 == "\n" }
        return !words.contains { missing.contains(String($0)) }
    }
}

/// A recording as the argument of a test: its name is what the test's output shows.
struct RecordedCase: Sendable, CustomTestStringConvertible {
    var recording: Recording
    init(_ recording: Recording) { self.recording = recording }
    var testDescription: String { recording.scenario.name }
}
