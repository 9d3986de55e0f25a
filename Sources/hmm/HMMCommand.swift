import ArgumentParser

@main
struct HMMCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "hmm", abstract: "Heterogeneous memory management.")
}
