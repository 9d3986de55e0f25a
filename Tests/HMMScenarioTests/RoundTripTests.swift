import HMMScenario
import Testing

@Suite("The recorded files")
struct RoundTripTests {
    /// Conformance/linux-6.12, beside Tests.
    static let directory =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Conformance/linux-6.12"

    @Test func everyRecordedScenarioReadsAndPrintsBack() throws {
        var count = 0
        for family in try Recording.families(in: Self.directory) {
            let text = try TextFile.read("\(Self.directory)/\(family).hmm")
            let scenarios = try Parser.parse(text)
            count += scenarios.count
            let isSame = scenarios.map(\.text).joined() == text
            #expect(isSame, "\(family) changes when it is read and printed")
        }
        #expect(count == 1139)
    }
}
