import ArgumentParser
import Testing

@testable import hmm

/// The rows themselves are measured by `.ci/run`, in a process of their own: a child that another test forks would
/// share the pages that they move.
@Suite("hmm bench --live")
struct LiveBenchTests {
    @Test("the tables have rows of their own")
    func namesAreApart() throws {
        #expect(try BenchCommand.parse(["--live", "--only", "live-fault"]).only == ["live-fault"])
        #expect(throws: (any Error).self) { try BenchCommand.parse(["--only", "live-fault"]) }
        #expect(throws: (any Error).self) { try BenchCommand.parse(["--live", "--only", "snapshot"]) }
    }

    @Test("every row has a name of its own and something beside it")
    func rowsAreComplete() {
        let rows = LiveBenchmarks.all.map(\.row)
        #expect(Set(rows.map(\.name)).count == rows.count)
        #expect(rows.allSatisfy { $0.name.hasPrefix("live-") && !$0.referenceName.isEmpty })
    }
}
