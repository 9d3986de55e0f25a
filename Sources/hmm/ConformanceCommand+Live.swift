import ArgumentParser
import HMM
import HMMLivePlay
import HMMScenario

extension ConformanceCommand {
    /// The recordings of `LiveDifferences.families`, played by real processes. One after another: a scenario is short,
    /// and who forks should have no threads.
    func runLive() throws {
        let start = SyncClock.now()
        var agreed = 0
        var total = 0
        var known = 0
        var surprises: [String] = []
        for family in LiveDifferences.families where Pattern(glob: pattern).matches(family) {
            let recordings = try Recording.family(family, in: directory)
            var same = 0
            for recording in recordings {
                let differences = try liveDifferences(recording)
                let reason = LiveDifferences.reasons[recording.scenario.name]
                if differences.isEmpty {
                    same += 1
                    if reason != nil { surprises.append("\(recording.scenario.name) agrees, but is listed") }
                } else if reason != nil {
                    known += 1
                } else {
                    surprises.append("\(recording.scenario.name) differs")
                }
                if verbose { show(differences, reason) }
            }
            Console.write("\(family)  \(same)/\(recordings.count)\n")
            agreed += same
            total += recordings.count
        }
        let milliseconds = (SyncClock.now() - start) / 1_000_000
        Console.write("all  \(agreed)/\(total)  in \(milliseconds) ms, \(known) differ for a known reason\n")
        surprises.forEach { Console.write("    \($0)\n") }
        if !surprises.isEmpty { throw ExitCode(1) }
    }

    private func liveDifferences(_ recording: Recording) throws -> [Recording.Difference] {
        var options = LivePlayer.Options()
        options.profile = kernel.profile
        options.checksInvariants = checksInvariants
        do {
            return recording.differences(of: try LivePlayer(recording.scenario, options).play())
        } catch {
            Console.complain("hmm: '\(recording.scenario.name)' cannot be played on this machine: \(error)")
            throw ExitCode(70)
        }
    }

    private func show(_ differences: [Recording.Difference], _ reason: String?) {
        differences.forEach { Console.write("    \($0)\n") }
        if let reason, !differences.isEmpty { Console.write("        known: \(reason)\n") }
    }
}
