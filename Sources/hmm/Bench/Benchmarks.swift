/// One row and how it is measured.
struct Benchmark: Sendable {
    /// Name, unit, reference and goal; no numbers yet.
    let row: BenchRow
    /// Fills the row in. Answers a checksum over what was read back.
    let measure: @Sendable (BenchRow, BenchScale) throws -> (BenchRow, checksum: UInt64)

    init(
        _ name: String, unit: String, reference: String, goal: BenchGoal? = nil,
        _ measure: @escaping @Sendable (BenchRow, BenchScale) throws -> (BenchRow, checksum: UInt64)
    ) {
        row = BenchRow(name: name, unit: unit, referenceName: reference, goal: goal)
        self.measure = measure
    }
}

/// All rows, in the order in which they are printed. Names are stable: programs ask for them.
enum Benchmarks {
    static let all: [Benchmark] = mirrorRows + migrationRows + cpuRows + explorerRows

    /// Measures the rows with these names, or all.
    static func run(_ benchmarks: [Benchmark], only names: [String], _ scale: BenchScale) -> BenchReport {
        var report = BenchReport()
        for benchmark in benchmarks where names.isEmpty || names.contains(benchmark.row.name) {
            do {
                let (row, checksum) = try benchmark.measure(benchmark.row, scale)
                report.rows.append(row)
                report.checksum = report.checksum &* 31 &+ checksum
            } catch {
                var row = benchmark.row
                row.note = "not measured: \(BenchFailure.reason(of: error))"
                report.rows.append(row)
            }
        }
        return report
    }
}
