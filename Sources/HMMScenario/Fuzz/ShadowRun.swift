import HMM

/// What is done to a machine while a scenario is played on it, to see that nothing is lost.
package enum Disturbance: Sendable {
    case none
    /// The n-th allocation after the machine was made fails.
    case failedAllocation(Int)
    /// The devices of the scenario have so many pages each, those that it declares itself too.
    case smallDevices(pages: Int)
    /// Somebody else holds a page of a region of `main`, as DMA does, while the statement at `step` runs.
    case pinnedPage(step: Int, region: Int, page: Int)
}

/// What went wrong.
package struct FuzzFailure: Error, Sendable, CustomStringConvertible {
    /// The statement, counted from 0; nil: after the end.
    package var step: Int?
    package var statement: String
    package var answer: String
    package var complaint: String

    package var description: String {
        step == nil ? "at the end: \(complaint)" : "'\(statement)' answers '\(answer)': \(complaint)"
    }
}

/// A scenario without races, played beside its shadow, with all invariants checked after every statement.
package struct ShadowRun {
    private let player: Player
    private let thread: PlayThread
    private var shadow: Shadow
    private let disturbance: Disturbance
    /// Whether the allocation that was to fail has failed.
    package private(set) var hasFailedAllocation = false

    /// - Throws: when the host gives no memory for the machine.
    package init(
        _ scenario: Scenario, _ configuration: MachineConfiguration, _ disturbance: Disturbance = .none
    ) throws(HMMError) {
        var scenario = scenario
        if case .smallDevices(let pages) = disturbance {
            for index in scenario.devices.indices {
                scenario.devices[index].memoryBytes = UInt64(pages * Geometry.pageSizeBytes)
            }
        }
        var options = Player.Options()
        options.configuration = configuration
        player = try Player(scenario, options)
        thread = PlayThread(player: player, runner: nil)
        shadow = Shadow(scenario, configuration.profile)
        self.disturbance = disturbance
    }

    /// The machine of the fuzzer: as large as that of `hmm run`, but for swap, whose slots are looked at after every
    /// statement.
    package static func configuration(_ profile: KernelProfile) -> MachineConfiguration {
        var configuration = MachineConfiguration()
        configuration.profile = profile
        configuration.swapBytes = 32 << 20
        return configuration
    }

    /// What runs out in the scenario of a seed, if something is to run out.
    package static func shortage(ofSeed seed: UInt64) -> Disturbance {
        var random = FuzzRandom(seed: ~seed)
        if random.chance(1, outOf: 3) { return .smallDevices(pages: random.number(in: 1...random.pick([4, 30]))) }
        return .failedAllocation(random.number(in: 1...random.pick([8, 40, 200])))
    }

    /// Plays a scenario once. Nil: nothing is wrong.
    package static func firstFailure(
        _ scenario: Scenario, _ configuration: MachineConfiguration, _ disturbance: Disturbance = .none
    ) -> FuzzFailure? {
        do throws(HMMError) {
            var run = try ShadowRun(scenario, configuration, disturbance)
            return run.play()
        } catch {
            return FuzzFailure(step: nil, statement: "", answer: "", complaint: "no machine: \(error)")
        }
    }

    package mutating func play() -> FuzzFailure? {
        if case .failedAllocation(let n) = disturbance { player.machine.faultInjector.failAllocation(n) }
        var failure: FuzzFailure?
        for (step, statement) in player.scenario.statements.enumerated() {
            failure = run(statement, step)
            if failure != nil { break }
        }
        thread.leave()
        let end = finish()
        return failure ?? end
    }

    private mutating func run(_ statement: Statement, _ step: Int) -> FuzzFailure? {
        let failedBefore = player.machine.faultInjector.failedCount
        let pin = pin(before: step)
        let outcome = thread.run(statement)
        if player.machine.faultInjector.failedCount > failedBefore {
            hasFailedAllocation = true
            return afterFailedAllocation(outcome, step)
        }
        let complaint = shadow.check(outcome) ?? brokenInvariant()
        if let pin { unpin(pin) }
        return complaint.map { failure(outcome, step, $0) }
    }

    private func failure(_ outcome: StatementOutcome, _ step: Int, _ complaint: String) -> FuzzFailure {
        FuzzFailure(
            step: step, statement: player.scenario.text(of: outcome.statement), answer: outcome.result.text,
            complaint: complaint)
    }

    private func brokenInvariant() -> String? {
        if let broken = player.machine.checkInvariants().first { return broken }
        return player.devices.openMirrors.lazy.compactMap { $0.checkInvariants().first }.first
    }

    /// Everybody exits; then nothing may be left.
    private func finish() -> FuzzFailure? {
        for index in player.scenario.processes.indices.reversed() {
            if let process = player.process(ProcessID(index: index)) { _ = process.exit() }
        }
        let left = brokenInvariant() ?? player.machine.leftovers.first.map { "\($0) are left" }
        // Whatever is wrong: a device that stays keeps its machine alive.
        let stuck = player.devices.removeAll().first
        let complaint = left ?? stuck
        return complaint.map { FuzzFailure(step: nil, statement: "", answer: "", complaint: $0) }
    }

    // MARK: A failed allocation

    /// The statement either did without the memory, or answered an error and left everything in order: then every page
    /// is read (in one half of the cases, because reading moves pages), and trying it again succeeds.
    private mutating func afterFailedAllocation(_ outcome: StatementOutcome, _ step: Int) -> FuzzFailure? {
        if let broken = brokenInvariant() { return failure(outcome, step, broken) }
        var unharmed = shadow
        let complaint = unharmed.check(outcome)
        // ENOMEM is also what a hole answers, after everything before it was done; here less may have been.
        if complaint == nil, outcome.result != .error("ENOMEM") {
            shadow = unharmed
            return nil
        }
        // Linux answers a touch of hugetlb memory with SIGBUS when there is no page for it.
        var wasRefused = outcome.result.isError
        if case .values(let values) = outcome.result, values.contains(where: { $0 == .busError }) { wasRefused = true }
        if !wasRefused, let complaint { return failure(outcome, step, complaint) }
        shadow.noteFailure(of: outcome)
        if case .failedAllocation(let n) = disturbance, n.isMultiple(of: 2), let lost = lostPage() {
            return failure(outcome, step, "an allocation failed, and then \(lost)")
        }
        let again = thread.run(outcome.statement)
        let secondComplaint = shadow.check(again) ?? brokenInvariant()
        return secondComplaint.map { failure(again, step, "tried again after a failed allocation: \($0)") }
    }

    /// Reads every page of every process.
    private mutating func lostPage() -> String? {
        guard let read = Verb.named("read", of: .cpu) else { preconditionFailure("CPUs read") }
        for process in shadow.processes.indices where shadow.processes[process] != nil {
            for region in player.scenario.regions.indices {
                let range = RegionRange(region: RegionID(index: region), part: .whole)
                let statement = Statement(
                    line: 0, position: SourcePosition(line: 1, column: 1), process: ProcessID(index: process),
                    device: nil, verb: read, operands: [.range(range)])
                let outcome = thread.run(statement)
                if let complaint = shadow.check(outcome) {
                    return "\(player.scenario.text(of: statement)) answers '\(outcome.result.text)': \(complaint)"
                }
            }
        }
        return nil
    }

    // MARK: Foreign references

    private func pin(before step: Int) -> FrameNumber? {
        guard case .pinnedPage(step, let region, let page) = disturbance,
            let process = player.process(.main)
        else { return nil }
        let space = process.space
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        return try? space.reference(process.start(of: RegionID(index: region)).advanced(by: page), [.pin])
    }

    private func unpin(_ frame: FrameNumber) {
        player.process(.main)?.space.release(frame, [.pin])
    }
}
