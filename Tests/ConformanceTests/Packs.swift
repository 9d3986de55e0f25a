import HMMScenario
import Testing

/// The recordings that the model must reproduce: all of them, nothing skipped.
enum Packs {
    /// Families and scenarios that there are, so that none is lost unnoticed.
    static let familyCount = 19
    static let scenarioCount = 1139

    /// Conformance, beside Tests.
    private static let root =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Conformance"
    static let directory = root + "/linux-6.12"

    static let recordings = cases(in: directory)
    /// Scenarios whose answers follow from the kernel's sources.
    static let regressions = cases(in: root + "/regressions")

    private static func cases(in directory: String) -> [RecordedCase] {
        do {
            return try Recording.families(in: directory)
                .flatMap { try Recording.family($0, in: directory) }.map(RecordedCase.init)
        } catch {
            fatalError("the recordings cannot be read: \(error)")
        }
    }
}

/// A recording as the argument of a test: its name is what the test's output shows.
struct RecordedCase: Sendable, CustomTestStringConvertible {
    var recording: Recording
    init(_ recording: Recording) { self.recording = recording }
    var testDescription: String { recording.scenario.name }
}
