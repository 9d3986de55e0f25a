import HMMScenario
import Testing

/// The recordings that the model must reproduce: all of them, nothing skipped.
enum Packs {
    /// Families and scenarios that there are, so that none is lost unnoticed.
    static let familyCount = 19
    static let scenarioCount = 1139

    /// Conformance/linux-6.12, beside Tests.
    static let directory =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Conformance/linux-6.12"

    static let recordings: [RecordedCase] = {
        do {
            return try Recording.families(in: directory)
                .flatMap { try Recording.family($0, in: directory) }.map(RecordedCase.init)
        } catch {
            fatalError("the recordings cannot be read: \(error)")
        }
    }()
}

/// A recording as the argument of a test: its name is what the test's output shows.
struct RecordedCase: Sendable, CustomTestStringConvertible {
    var recording: Recording
    init(_ recording: Recording) { self.recording = recording }
    var testDescription: String { recording.scenario.name }
}
