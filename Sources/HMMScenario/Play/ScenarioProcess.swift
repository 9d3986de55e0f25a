import HMM

/// What statements do to a process. The verbs know only this, so they say the same of a process of the model and of a
/// real one.
package protocol ScenarioProcess {
    /// Where the region is now.
    func start(of region: RegionID) -> PageNumber
    func map(
        _ region: RegionID, pageCount: Int, _ protection: Protection, _ options: MapOptions
    ) throws(HMMError)
    func unmap(_ pages: PageRange) throws(HMMError)
    func protect(_ pages: PageRange, _ protection: Protection) throws(HMMError)
    func advise(_ pages: PageRange, _ advice: Advice) throws(HMMError)
    func move(_ region: RegionID, pageCount: Int, to target: PageNumber) throws(HMMError)
    func fork(_ child: ProcessID) throws(HMMError)

    /// The process's CPU reads a page, whose number in its region is `number`. What it saw.
    func read(_ page: PageNumber, number: Int) throws(HMMError) -> PageValue
    /// The process's CPU fills a page from a seed. What is there now, or the fault.
    func write(_ page: PageNumber, number: Int, seed: UInt32) throws(HMMError) -> PageValue

    var devices: PlayedDevices { get }
    var mirrors: OpenMirrors { get }
}

/// A statement that is being run: everything that its verb works with.
package struct Call {
    let process: any ScenarioProcess
    let scenario: Scenario
    let statement: Statement

    package init(process: any ScenarioProcess, scenario: Scenario, statement: Statement) {
        self.process = process
        self.scenario = scenario
        self.statement = statement
    }

    /// Runs the statement. It does not end the process: who stands outside of it does.
    package func run() -> StatementResult {
        do throws(HMMError) {
            return try statement.verb.play(self)
        } catch {
            return StatementResult(error)
        }
    }

    /// Runs a request on this process's mirror of the statement's device.
    func withMirror<Result>(_ body: (DmirrorMirror) throws(HMMError) -> Result) throws(HMMError) -> Result {
        guard let device = statement.device else { preconditionFailure("a device statement without a device") }
        return try process.mirrors.with(device, body)
    }

    /// The pages that a `range` operand means, where they are now, and the number of the first within its region.
    func range(_ index: Int) -> (pages: PageRange, first: Int) {
        guard case .range(let range) = statement.operands[index] else { wrongOperand(index) }
        let pages = range.pages(in: scenario)
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
