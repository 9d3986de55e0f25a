import ArgumentParser

/// `hmm doctor`.
struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Say what this machine can do for live memory, and what to set if it cannot.",
        discussion: """
            Live memory needs userfaultfd; everything else is used where the kernel has it. Each line says whether it \
            is there, and what is done without it; an arrow says what can be set. Then a page goes to a device and \
            comes back by a page fault.

            The exit status is 0 if live memory works here, 1 if not.
            """)

    @Flag(help: "Print the findings as JSON.")
    var json = false

    @Flag(help: .hidden)
    var trial = false

    func run() throws {
        if trial {
            guard let failure = DoctorTrial.run() else { return }
            Console.write(failure)
            throw ExitCode(1)
        }
        let report = DoctorReport(.read(), trial: DoctorTrial.runApart)
        Console.write(json ? report.json + "\n" : report.text)
        if !report.isUsable { throw ExitCode(1) }
    }
}
