import ArgumentParser
import HMM
import HMMLivePlay
import HMMScenario
import Logging

struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Play scenarios and print what the machine answers.",
        discussion: """
            A file holds scenarios; '== NAME' starts one, on a fresh machine with one process, 'main', and the \
            devices dev0 and dev1 (private memory), dev2 and dev3 (coherent memory). '#' starts a comment. A RANGE is \
            a region (a), a page of it (a[3]) or pages (a[0..<8]). 'NAME: STATEMENT' runs in process NAME.

            \(RunCommand.statements)

            'expect RESULT|RESULT|…' says what the statement before it answers; '*' stands for any text. 'race', \
            'thread NAME' … 'end' runs groups of statements at the same time.

            With --live, each process of a scenario is a real one and its memory is real: the kernel of this machine \
            maps, protects, forks, and userfaultfd carries the devices. Documentation/live-differences.md says where \
            that answers otherwise than a kernel that has the devices itself.

            Exit status: 0; 1 if an 'expect' failed; 64 if a file or the command line has errors (nothing is played \
            then); 66 if a file cannot be read; 70 if the machine cannot be made, or with --live \
            this one does not let us.

            Examples:
              hmm run Examples/scenarios/first-fault.hmm
              hmm run --format plain --scenario 'fork-00*' Conformance/linux-6.12/fork.hmm
              hmm run --live Examples/scenarios/first-fault.hmm
              printf '== a\\nmap m 4 rw\\ndev0 read m\\ndev0 snapshot m\\n' | hmm run -
            """)

    enum Format: String, CaseIterable, ExpressibleByArgument {
        case plain, person, json
    }

    @Argument(help: "Files with scenarios; '-' is standard input.", completion: .file(extensions: ["hmm"]))
    var files: [String]

    @Option(help: "plain: 'LINE RESULT', as recorded from a kernel. person: for reading. json: one object a scenario.")
    var format = Format.person

    @Option(help: "Which kernel to answer as: 6.12 with its peculiarities, or next, which does what is right.")
    var kernel = Kernel.linux6_12

    @Option(name: .customLong("scenario"), help: "Play only scenarios whose name matches; '*' stands for any text.")
    var pattern: String?

    @Flag(name: .customLong("check"), help: "Check the invariants of the whole machine after every statement (slow).")
    var checksInvariants = false

    @Flag(name: .customLong("live"), help: "Play with real processes on their own memory.")
    var isLive = false

    @OptionGroup var logging: LoggingOptions

    func run() throws {
        let logger = logging.logger()
        let sources = try ScenarioFiles.read(files, matching: pattern)
        var printer = makePrinter()
        var total = PlaySummary()
        var isGood = true
        for source in sources {
            logger.debug("read \(source.file): \(source.scenarios.count) scenarios")
            for scenario in source.scenarios {
                let outcome = try play(scenario, of: source.file, &printer, logger)
                total.add(outcome.summary)
                isGood = isGood && outcome.summary.failedExpectations == 0 && outcome.violations.isEmpty
            }
        }
        printer.finish(total)
        if !isGood { throw ExitCode(1) }
    }

    private func makePrinter() -> any ReportPrinter {
        switch format {
        case .plain: PlainPrinter(write: Console.write)
        case .person: PersonPrinter(isColored: Console.wantsColor, write: Console.write)
        case .json: JSONPrinter(write: Console.write)
        }
    }

    private func play(
        _ scenario: Scenario, of file: String, _ printer: inout any ReportPrinter, _ logger: Logger
    ) throws -> ScenarioOutcome {
        printer.begin(scenario, file: file)
        let outcome: ScenarioOutcome
        do {
            outcome = try play(scenario) { printer.add($0, of: scenario) }
        } catch {
            Console.complain("hmm: no machine for '\(scenario.name)': \(error)")
            throw ExitCode(70)
        }
        printer.end(outcome, file: file)
        complain(outcome, file)
        let milliseconds = outcome.summary.nanoseconds / 1_000_000
        logger.info("played \(scenario.name): \(outcome.statements.count) statements in \(milliseconds) ms")
        return outcome
    }

    private func play(
        _ scenario: Scenario, _ report: (StatementOutcome) -> Void
    ) throws -> ScenarioOutcome {
        if isLive {
            var options = LivePlayer.Options()
            options.profile = kernel.profile
            options.checksInvariants = checksInvariants
            return try LivePlayer(scenario, options).play(report)
        }
        var options = Player.Options()
        options.configuration.profile = kernel.profile
        options.checksInvariants = checksInvariants
        return try Player(scenario, options).play(report)
    }

    /// Says on standard error what a person would miss in the plain and JSON forms.
    private func complain(_ outcome: ScenarioOutcome, _ file: String) {
        guard format != .person else { return }
        for statement in outcome.statements {
            if !statement.note.isEmpty {
                let place = "\(file):\(statement.statement.position.line)"
                Console.complain("\(place): \(statement.note)")
            }
            for expectation in statement.failedExpectations {
                let failure = Diagnostic(
                    expectation.position, "the result is '\(statement.result.text)'", expected: "'\(expectation.text)'")
                Console.complain(failure.description(file: file))
            }
        }
        outcome.violations.forEach { Console.complain("hmm: \(outcome.scenario.name): invariant broken \($0)") }
    }
}

extension RunCommand {
    /// The statements as a table, straight from the language's own.
    private static let statements: String = {
        let width = Verb.all.map(\.usage.count).max() ?? 0
        let rows = Verb.all.map { verb in
            verb.usage + String(repeating: " ", count: width - verb.usage.count) + "  " + verb.meaning
        }
        let legend: [(String, Verb.Parameter)] = [("PROT", .protection), ("KIND", .mapOptions), ("ADVICE", .advice)]
        return (rows + [""] + legend.map { "\($0.0) is \($0.1.expectation)." }).joined(separator: "\n")
    }()
}

/// The kernels that the model can answer as.
enum Kernel: String, CaseIterable, ExpressibleByArgument {
    case linux6_12 = "6.12"
    case next

    var profile: KernelProfile {
        switch self {
        case .linux6_12: .linux6_12
        case .next: .next
        }
    }
}

struct LoggingOptions: ParsableArguments {
    @Option(help: "What to log on standard error, from this level on.")
    var logLevel = Logger.Level.warning

    func logger() -> Logger {
        var logger = Logger(label: "hmm", factory: { StreamLogHandler.standardError(label: $0) })
        logger.logLevel = logLevel
        return logger
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
