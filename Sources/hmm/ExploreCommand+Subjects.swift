import HMM
import HMMExplorer
import HMMScenario
import Museum

/// Something to be explored: a scenario of a file, or a version of an exhibit.
struct ExplorationSubject: Sendable {
    enum What: Sendable {
        case scenario(Scenario, file: String, kernel: String)
        case exhibit(Exhibit, Exhibit.Version)
    }

    var what: What
    var options: ExplorationOptions

    init(_ scenario: Scenario, of file: String, _ options: ExplorationOptions, _ kernel: String) {
        what = .scenario(scenario, file: file, kernel: kernel)
        self.options = options
        self.options.program = "\(kernel)\n\(scenario.text)"
    }

    init(_ exhibit: Exhibit, _ version: Exhibit.Version, _ options: ExplorationOptions) {
        what = .exhibit(exhibit, version)
        self.options = options
        self.options.program = "\(exhibit.name)\n\(version.rawValue)"
    }

    var name: String {
        switch what {
        case .scenario(let scenario, _, _): scenario.name
        case .exhibit(let exhibit, _): exhibit.name
        }
    }

    /// Runs the schedules on this thread of the system.
    func explore(_ options: ExplorationOptions) -> Exploration {
        switch what {
        case .exhibit(let exhibit, let version): return exhibit.explore(version, options)
        case .scenario(let scenario, _, _):
            return ScenarioProgram.explore(scenario, options)
        }
    }

    /// A failure made smaller than a schedule can: with fewer statements.
    func shrunk(_ failure: ExplorationFailure) -> (scenario: Scenario, failure: ExplorationFailure)? {
        guard case .scenario(let scenario, _, let kernel) = what else { return nil }
        return ScenarioProgram.shrink(scenario, failure, options) { "\(kernel)\n\($0.text)" }
    }
}

/// What an exploration of a subject came to.
struct ExplorationResult: Sendable {
    var subject: ExplorationSubject
    var exploration: Exploration
    /// The scenario with the statements that its failure takes, if some could be left out.
    var shrunk: Scenario?
    /// What goes wrong with `shrunk`.
    var shrunkFailure: ExplorationFailure?

    var name: String { subject.name }
    /// What was explored, if it is of a file.
    var scenario: Scenario? {
        if case .scenario(let scenario, _, _) = subject.what { scenario } else { nil }
    }
    var isGood: Bool { exploration.failure == nil && (!mustBeComplete || exploration.isComplete) }

    /// A mended exhibit that is said to be covered.
    private var mustBeComplete: Bool {
        guard case .exhibit(let exhibit, .mended) = subject.what else { return false }
        return exhibit.isExhaustive && subject.options.strategy == .exhaustive
            && subject.options.schedules == .max && subject.options.seconds == .infinity
            && subject.options.replay == nil
    }

    /// Whether the exhibit showed what it is in the museum for.
    var isFound: Bool {
        guard case .exhibit(let exhibit, _) = subject.what else { return false }
        return exploration.failure?.kind == exhibit.kind
    }

    /// What a reader should know before the failure.
    var lead: String {
        switch subject.what {
        case .scenario(_, let file, _): "Scenario of \(file)."
        case .exhibit(let exhibit, _): "\(exhibit.source). \(exhibit.story)"
        }
    }

    /// The line that runs the schedule again.
    var replayLine: String? {
        guard let token = exploration.failure?.token else { return nil }
        switch subject.what {
        case .scenario(let scenario, let file, let kernel):
            return "hmm explore --kernel \(kernel) --scenario '\(scenario.name)' --replay \(token) \(file)"
        case .exhibit(let exhibit, let version):
            return "hmm explore --museum\(version == .mended ? " --mended" : "") --scenario \(exhibit.name)"
                + " --replay \(token)"
        }
    }
}
