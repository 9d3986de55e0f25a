import HMM

/// A thread that runs statements. It is a CPU of its own in every process in which it does something.
final class PlayThread {
    let player: Player
    private let runner: (any RaceRunner)?
    /// By the process's number.
    private var cpus: [CPU?]

    init(player: Player, runner: (any RaceRunner)?) {
        self.player = player
        self.runner = runner
        cpus = Array(repeating: nil, count: player.scenario.processes.count)
    }

    func run(_ statement: Statement) -> StatementOutcome {
        runner?.begins(statement)
        let outcome = StatementOutcome(statement: statement, result: result(of: statement))
        runner?.ended(outcome)
        return outcome
    }

    private func result(of statement: Statement) -> StatementResult {
        // The process may be gone by another thread of a race, or its fork has failed.
        guard let process = player.process(statement.process) else { return .error("ESRCH") }
        if statement.verb.endsProcess {
            removeCPU(of: statement.process)
            return process.exit() ? .ok : .error("ESRCH")
        }
        guard process.gate.enter() else { return .error("ESRCH") }
        defer { process.gate.leave() }
        let model = ModelProcess(thread: self, id: statement.process, process: process)
        return Call(process: model, scenario: player.scenario, statement: statement).run()
    }

    func cpu(in process: ProcessID, _ space: AddressSpace) -> CPU {
        if let cpu = cpus[process.index] { return cpu }
        let cpu = space.makeCPU()
        cpus[process.index] = cpu
        return cpu
    }

    private func removeCPU(of process: ProcessID) {
        guard let cpu = cpus[process.index] else { return }
        cpu.space.removeCPU(cpu)
        cpus[process.index] = nil
    }

    /// The thread ends.
    func leave() {
        for index in cpus.indices { removeCPU(of: ProcessID(index: index)) }
    }
}
