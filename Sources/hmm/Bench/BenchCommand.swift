import ArgumentParser

/// `hmm bench`.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure the model beside the host kernel.",
        discussion: """
            Every row is the median of several samples. The host kernel, or memcpy, does the same in the same run, in \
            turns with ours; 'ratio' is ours divided by that. A row that this machine cannot measure says why.

            With --live: the live backend, on memory of this process, beside plain C that does the same with \
            userfaultfd and without any bookkeeping. 'hmm doctor' says what this machine can do.

            The exit status is 0 unless a row could not be measured; a goal that is not met does not change it.
            """)

    @Flag(help: "Print the rows as JSON.")
    var json = false

    @Option(help: ArgumentHelp("Measure this row only; may be given several times.", valueName: "name"))
    var only: [String] = []

    @Flag(help: "Tiny inputs and few samples: shows that everything runs, measures nothing.")
    var quick = false

    @Flag(help: "Measure live memory beside plain C.")
    var live = false

    @Flag(help: "List the names of the rows.")
    var list = false

    /// The table that was asked for.
    private var benchmarks: [Benchmark] { live ? LiveBenchmarks.all : Benchmarks.all }

    func validate() throws {
        for name in only where !benchmarks.contains(where: { $0.row.name == name }) {
            let names = benchmarks.map(\.row.name).joined(separator: ", ")
            throw ValidationError("there is no row '\(name)'; the rows are \(names)")
        }
    }

    func run() throws {
        if list {
            for benchmark in benchmarks { print(benchmark.row.name) }
            return
        }
        let report = measure()
        print(json ? report.json : report.table)
        if !report.isComplete { throw ExitCode.failure }
    }

    /// Measures the rows that were asked for, in the order of the table.
    func measure() -> BenchReport {
        Benchmarks.run(benchmarks, only: only, BenchScale(isQuick: quick))
    }
}
