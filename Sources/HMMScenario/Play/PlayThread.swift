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
        do throws(HMMError) {
            return try statement.verb.play(Call(thread: self, process: process, statement: statement))
        } catch {
            return StatementResult(error)
        }
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

/// A statement that is being run: everything that its verb works with.
package struct Call {
    let thread: PlayThread
    let process: PlayedProcess
    let statement: Statement

    var player: Player { thread.player }
    var cpu: CPU { thread.cpu(in: statement.process, process.space) }

    /// Runs a request on this process's mirror of the statement's device.
    func withMirror<Result>(_ body: (DmirrorMirror) throws(HMMError) -> Result) throws(HMMError) -> Result {
        guard let device = statement.device else { preconditionFailure("a device statement without a device") }
        return try process.mirrors.with(device, body)
    }

    /// The pages that a `range` operand means, where they are now, and the number of the first within its region.
    func range(_ index: Int) -> (pages: PageRange, first: Int) {
        guard case .range(let range) = statement.operands[index] else { wrongOperand(index) }
        let pages = range.pages(in: player.scenario)
        let start = process.start(of: range.region)
        return (start.advanced(by: pages.lowerBound)..<start.advanced(by: pages.upperBound), pages.lowerBound)
    }

    func seed(_ index: Int) -> UInt32 {
        guard case .seed(let seed) = statement.operands[index] else { wrongOperand(index) }
        return seed
    }

    func protection(_ index: Int) -> Protection {
        guard case .protection(let protection) = statement.operands[index] else { wrongOperand(index) }
        return protection
    }

    func wrongOperand(_ index: Int) -> Never {
        preconditionFailure("'\(statement.verb.usage)' got \(statement.operands[index]) for its operand \(index)")
    }
}
