import ArgumentParser

@main
struct HMMCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "hmm",
        abstract: "Heterogeneous memory management: processes and devices that share one address space.",
        discussion: """
            Plays scenarios on a model of the kernel's memory management that is exact enough to answer as Linux does: \
            pages fault in on CPUs and devices, move between system and device memory, are shared by fork, swapped \
            out, unmapped in the middle of an access.

            Start with:  hmm run Examples/scenarios/first-fault.hmm
            """,
        version: "hmm 0.1.0",
        subcommands: [
            RunCommand.self, ExploreCommand.self, BenchCommand.self, ConformanceCommand.self, FuzzCommand.self,
            ExecCommand.self, DoctorCommand.self,
        ]
    )
}
