import ArgumentParser
import Foundation
import Testing

@testable import hmm

@Suite("hmm bench")
struct BenchTests {
    /// The names that programs ask for.
    static let names = Benchmarks.all.map(\.row.name)

    @Test func everyRowOfAQuickRunIsMeasured() throws {
        let report = try BenchCommand.parse(["--quick", "--json"]).measure()
        #expect(report.rows.map(\.name) == Self.names)
        for row in report.rows { #expect(row.ours != nil, "\(row.name): \(row.note ?? "")") }
        let parsed = try #require(
            JSONSerialization.jsonObject(with: Data(report.json.utf8)) as? [String: [[String: Any]]])
        #expect(Array(parsed.keys) == ["rows"])
        let rows = try #require(parsed["rows"])
        #expect(rows.count == Self.names.count)
        for row in rows {
            #expect(
                row.keys.sorted() == [
                    "goal", "met", "name", "ours", "ratio", "reference", "referenceName", "unit",
                ])
        }
    }

    @Test func onlySelectsRowsAndRefusesUnknownNames() throws {
        let report = try BenchCommand.parse(["--quick", "--only", "protect"]).measure()
        #expect(report.rows.map(\.name) == ["protect"])
        #expect(throws: (any Error).self) { try BenchCommand.parse(["--only", "no-such-row"]) }
    }

    @Test func namesAreUniqueAndContainThoseOfTheDesign() {
        #expect(Set(Self.names).count == Self.names.count)
        let promised = [
            "snapshot", "device-fault", "protect-invalidate", "mirror-bytes-per-GB-4K", "mirror-bytes-per-GB-2M",
            "two-threads", "migrate-4K", "migrate-2M", "exclusive", "fork",
        ]
        #expect(Set(promised).isSubset(of: Set(Self.names)))
    }

    @Test(arguments: [
        (0.0, "0"), (0.97, "0.97"), (1.0, "1"), (12.34, "12.3"), (0.01234, "0.0123"), (2_097_152.0, "2097152"),
        (-1.5, "-1.5"),
    ])
    func numbersKeepThreeDigits(_ value: Double, _ text: String) { #expect(BenchNumber.text(value) == text) }

    @Test func aRowThatCouldNotBeMeasuredIsNullAndSaysWhy() {
        var row = BenchRow(name: "a\"b", unit: "x", referenceName: "none", goal: BenchGoal(atLeast: 1.8))
        row.note = "not measured: no reason"
        let report = BenchReport(rows: [row])
        #expect(report.json.contains("\"name\": \"a\\\"b\""))
        #expect(report.json.contains("\"ours\": null"))
        #expect(report.json.contains("\"met\": null"))
        #expect(report.table.contains("not measured: no reason"))
        #expect(!report.isComplete)
    }
}
