import CLive
import Foundation
import HMM
import HMMLive
import Synchronization
import Testing

/// Ordinary threads and two devices with little memory on memory of this process: loads, stores, atomics from both
/// sides, pages that go and come, children, system calls on memory that a device wants, and every call that changes
/// mappings. Every value that is read is checked against what may be there; at the end nothing is lost, every counter
/// has its sum, and the devices have given everything back.
///
/// `HMM_SEED` sets the seed, `HMM_LIVE_SECONDS` how long it goes on.
@Suite("Live stress", .serialized)
struct LiveStressTests {
    static let environment = ProcessInfo.processInfo.environment
    static let seed = environment["HMM_SEED"].flatMap { UInt64($0) } ?? 20_250_130
    static let seconds = environment["HMM_LIVE_SECONDS"].flatMap { Double($0) } ?? 3

    @Test("threads, two devices, children and system calls", .enabled(if: canRunLive))
    func everybodyAtOnce() async {
        // A process of its own: its forks share the pages of whatever else runs in it.
        await #expect(processExitsWith: .success) {
            print("live stress: HMM_SEED=\(Self.seed) HMM_LIVE_SECONDS=\(Self.seconds)")
            let run = try LiveStressRun(seed: Self.seed)
            run.play(seconds: Self.seconds)
            run.verify()
            try run.finish()
            print("live stress: \(run.summary)")
        }
    }

    @Test(
        "the same as of an older kernel, and for a user without rights, not so long", .enabled(if: canRunLive),
        arguments: ["kernel-faults", "move", "kernel-faults,move,procmap-query,sigbus"])
    func everybodyWithLess(_ without: String) async {
        await #expect(processExitsWith: .success) { [without] in
            setenv("HMM_WITHOUT", without, 1)
            print("live stress: HMM_SEED=\(Self.seed) HMM_WITHOUT=\(without)")
            let run = try LiveStressRun(seed: Self.seed)
            run.play(seconds: min(Self.seconds, 3))
            run.verify()
            try run.finish()
            print("live stress: \(run.summary)")
        }
    }
}
