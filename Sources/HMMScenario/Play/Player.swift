import HMM

/// Plays one scenario on a fresh machine.
package final class Player: @unchecked Sendable {
    package struct Options: Sendable {
        package var configuration = MachineConfiguration()
        /// Check all invariants of the machine and of the open mirrors after every step and at the end.
        package var checksInvariants = false
        /// Play on this machine, which has nothing in it, instead of a new one.
        package var machine: Machine?
        /// Who runs the groups of a race, and is told what they are about to do; threads of the system if nobody.
        package var runner: (any RaceRunner)?

        package init() {}
    }

    package let scenario: Scenario
    package let machine: Machine
    private let options: Options
    let devices: PlayedDevices
    private let lock = SpinLock(.pool)
    /// By the process's number; nil until it was forked. Guarded by `lock`.
    private var processes: [PlayedProcess?]

    package init(_ scenario: Scenario, _ options: Options = Options()) throws(HMMError) {
        self.scenario = scenario
        self.options = options
        if let machine = options.machine {
            self.machine = machine
        } else {
            machine = try Machine(options.configuration)
        }
        devices = PlayedDevices(machine: machine, declared: scenario.devices)
        processes = Array(repeating: nil, count: scenario.processes.count)
        processes[0] = PlayedProcess(
            space: try machine.makeAddressSpace(), starts: scenario.regions.map(\.start), devices: devices)
    }

    func process(_ id: ProcessID) -> PlayedProcess? { lock.withLock { processes[id.index] } }
    func setProcess(_ id: ProcessID, _ process: PlayedProcess) { lock.withLock { processes[id.index] = process } }

    /// Plays all statements, then ends the processes that still run. Each outcome is reported as soon as it is there,
    /// in the order of the text; those of a race when all its threads are done.
    package func play(_ report: (StatementOutcome) -> Void = { _ in }) -> ScenarioOutcome {
        var outcome = ScenarioOutcome(scenario: scenario)
        let start = SyncClock.now()
        let thread = PlayThread(player: self, runner: options.runner)
        for step in scenario.steps {
            let outcomes =
                switch step {
                case .statement(let statement): [thread.run(statement)]
                case .race(let race): run(race)
                }
            outcomes.forEach(report)
            outcome.statements += outcomes
            noteMemory(&outcome.summary)
            if options.checksInvariants { check(after: outcomes.last, &outcome) }
        }
        thread.leave()
        finish(&outcome)
        outcome.summary.nanoseconds = SyncClock.now() - start
        return outcome
    }

    /// Each group is a thread of its own. Their outcomes, group by group, which is the order of the text.
    private func run(_ race: Race) -> [StatementOutcome] {
        let groups = race.groups.map { GroupRun(player: self, group: $0, runner: options.runner) }
        if let runner = options.runner {
            runner.run(groups.map { group in (group.group.name, { group.run() }) })
        } else {
            let threads = groups.map { group in SyncThread.spawn(name: group.group.name) { group.run() } }
            threads.forEach { $0.join() }
        }
        return groups.flatMap(\.outcomes)
    }

    private func check(after statement: StatementOutcome?, _ outcome: inout ScenarioOutcome) {
        let place = statement.map { "after line \($0.statement.line)" } ?? "at the end"
        outcome.violations += faults.map { "\(place): \($0)" }
    }

    /// What is wrong with the machine and the open mirrors. Meant for moments when no statement is under way.
    package var faults: [String] {
        machine.checkInvariants() + devices.openMirrors.flatMap { $0.checkInvariants() }
    }

    /// A mirror that says more than the page table, in words, at a moment when nobody holds a lock. Nothing is said
    /// while an invalidation is under way: what it is about to take from the mirrors may be gone from the table.
    package var staleMirror: String? {
        for space in machine.addressSpaces where !space.notifiers.isQuiet { return nil }
        for mirror in devices.openMirrors {
            if let fault = mirror.checkInvariants().first { return fault }
        }
        return nil
    }

    private func finish(_ outcome: inout ScenarioOutcome) {
        // Children first, as a shell would wait for them.
        for index in processes.indices.reversed() {
            if let process = process(ProcessID(index: index)) { _ = process.exit() }
        }
        outcome.violations += devices.removeAll().map { "at the end: \($0)" }
        if options.checksInvariants { check(after: nil, &outcome) }
        outcome.summary.note(outcome.statements)
        outcome.summary.noteCounts(of: machine)
    }
}

/// Runs the groups of races in an order of its own, and watches the statements that begin and end.
package protocol RaceRunner: AnyObject, Sendable {
    /// Returns when all groups have come to their end.
    func run(_ groups: [(name: String, body: () -> Void)])
    /// The running thread begins a statement.
    func begins(_ statement: Statement)
    /// The running thread has made a statement.
    func ended(_ outcome: StatementOutcome)
}

/// A group of a race and its outcomes. Touched by its thread until that is joined.
private final class GroupRun: @unchecked Sendable {
    let player: Player
    let group: RaceGroup
    private let runner: (any RaceRunner)?
    private(set) var outcomes: [StatementOutcome] = []

    init(player: Player, group: RaceGroup, runner: (any RaceRunner)?) {
        self.player = player
        self.group = group
        self.runner = runner
    }

    func run() {
        let thread = PlayThread(player: player, runner: runner)
        for statement in group.statements { outcomes.append(thread.run(statement)) }
        thread.leave()
    }
}
