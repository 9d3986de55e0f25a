import ArgumentParser
import HMM
import HMMScenario
import Synchronization

struct ConformanceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "conformance",
        abstract: "Play all recordings and count where the model answers as the recorded kernel did.",
        discussion: """
            Plays every FAMILY.hmm of a directory and compares with FAMILY.expected, line by line, on all processors. \
            Exit status 1 if any scenario differs. With --kernel next, which answers otherwise for reasons that \
            Documentation/kernel-profiles.md lists, only if one breaks an invariant. With --live, real processes play \
            the families access, protect, migrate, multi, exclusive, cow and remap on this machine's memory; status 1 \
            if one differs that Documentation/live-differences.md does not explain.
            """)

    @Argument(help: "The directory with the recordings.", completion: .directory)
    var directory = "Conformance/linux-6.12"

    @Option(name: .customLong("family"), help: "Only families whose name matches; '*' stands for any text.")
    var pattern = "*"

    @Option(help: "Which kernel to answer as.")
    var kernel = Kernel.linux6_12

    @Flag(help: "Show the first line that differs, of each scenario that does.")
    var verbose = false

    @Flag(name: .customLong("check"), help: "Check the invariants of the whole machine after every statement.")
    var checksInvariants = false

    @Flag(name: .customLong("live"), help: "Play with real processes on their own memory.")
    var isLive = false

    func run() throws {
        if isLive { return try runLive() }
        let start = SyncClock.now()
        let families = try Recording.families(in: directory).filter { Pattern(glob: pattern).matches($0) }
        var agreed = 0
        var broken: [String] = []
        var total = 0
        for family in families {
            let recordings = try Recording.family(family, in: directory)
            let differences = compareAll(recordings)
            let same = differences.count { $0 == nil }
            Console.write("\(family)  \(same)/\(recordings.count)\n")
            if verbose { differences.compactMap { $0 }.forEach { Console.write("    \($0)\n") } }
            broken += differences.compactMap { $0 }.filter(\.isBrokenInvariant).map(\.description)
            agreed += same
            total += recordings.count
        }
        let milliseconds = (SyncClock.now() - start) / 1_000_000
        Console.write("all  \(agreed)/\(total)  in \(milliseconds) ms\n")
        if checksInvariants {
            Console.write("invariants  \(broken.isEmpty ? "hold" : "broken in \(broken.count) scenarios")\n")
            if let first = broken.first { Console.write("    \(first)\n") }
        }
        if !broken.isEmpty || (kernel == .linux6_12 && agreed != total) { throw ExitCode(1) }
    }

    /// For each recording what differs first, or nil.
    private func compareAll(_ recordings: [Recording]) -> [Recording.Difference?] {
        let work = Comparisons(recordings, checksInvariants: checksInvariants, profile: kernel.profile)
        let threads = (0..<Console.processorCount).map { index in
            SyncThread.spawn(name: "conformance \(index)") { work.run() }
        }
        threads.forEach { $0.join() }
        return work.differences
    }
}

/// Recordings that several threads compare, each taking the next one.
private final class Comparisons: @unchecked Sendable {
    private let recordings: [Recording]
    private let checksInvariants: Bool
    private let profile: KernelProfile
    private let next = Atomic<Int>(0)
    private let lock = SpinLock(.leaf)
    /// Guarded by `lock`.
    private(set) var differences: [Recording.Difference?]

    init(_ recordings: [Recording], checksInvariants: Bool, profile: KernelProfile) {
        self.recordings = recordings
        self.checksInvariants = checksInvariants
        self.profile = profile
        differences = Array(repeating: nil, count: recordings.count)
    }

    func run() {
        while true {
            let index = next.add(1, ordering: .relaxed).oldValue
            guard index < recordings.count else { return }
            let difference = recordings[index].firstDifference(checksInvariants: checksInvariants, profile: profile)
            lock.withLock { differences[index] = difference }
        }
    }
}
