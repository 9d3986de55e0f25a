import ArgumentParser
import HMMScenario

/// The scenarios that a command line names.
enum ScenarioFiles {
    struct Source: Sendable {
        var file: String
        var scenarios: [Scenario]
    }

    /// Reads every file before anything is done with one, so that an error in the last one stops all.
    static func read(_ files: [String], matching pattern: String?) throws -> [Source] {
        var sources: [Source] = []
        var hasErrors = false
        for file in files {
            let name = file == "-" ? "<stdin>" : file
            do {
                let scenarios = try Parser.parse(try TextFile.read(file))
                let wanted = scenarios.filter { scenario in
                    pattern.map { Pattern(glob: $0).matches(scenario.name) } ?? true
                }
                sources.append(Source(file: name, scenarios: wanted))
            } catch let errors as ScenarioErrors {
                errors.diagnostics.forEach { Console.complain($0.description(file: name)) }
                hasErrors = true
            } catch let failure as TextFile.Failure {
                Console.complain("hmm: \(failure)")
                throw ExitCode(66)
            }
        }
        if hasErrors { throw ExitCode(64) }
        if let pattern, sources.allSatisfy({ $0.scenarios.isEmpty }) {
            throw ValidationError("No scenario's name matches '\(pattern)'.")
        }
        return sources
    }
}
