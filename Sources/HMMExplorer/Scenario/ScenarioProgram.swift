import HMM
import HMMScenario

/// A scenario as a program for the explorer: its races run under every order, what surrounds them runs alone.
///
/// Beside what every exploration looks for, it checks the scenario's own expectations, that every value that is read
/// comes from a legal order of the statements (`SerialOrders`), the invariants of machine and mirrors whenever no
/// statement is under way, and that no mirror says more than the page table whenever no invalidation is.
package final class ScenarioProgram {
    package let scenario: Scenario
    private let orders: SerialOrders

    /// `configuration`: that of the machine of the scenes.
    ///
    /// - Throws: what the machine of the serial orders lacked.
    package init(_ scenario: Scenario, _ configuration: MachineConfiguration = .small) throws(HMMError) {
        self.scenario = scenario
        orders = try SerialOrders(scenario, configuration)
    }

    /// The statements of the scenario in the order of the text: what marks of steps mean.
    package var statements: [Statement] { scenario.steps.flatMap(\.statements) }

    /// One schedule.
    package func run(_ scene: Scene) throws {
        scene.setMarks(captions)
        for region in scenario.regions {
            scene.name(region.start..<region.start.advanced(by: region.pageCount), region.name)
        }
        var options = Player.Options()
        options.machine = scene.machine
        let watch = RaceWatch(scene)
        options.runner = watch
        let player = try Player(scenario, options)
        watch.player = player
        scene.always(.staleMirror) { [unowned player] in player.staleMirror }
        let outcome = player.play()
        check(outcome, watch, scene)
    }

    /// What marks mean: by line, the text of the statement.
    private var captions: [String] {
        var captions: [String] = []
        for statement in statements {
            while captions.count < statement.line { captions.append("") }
            captions.append(scenario.text(of: statement))
        }
        return captions
    }

    private func check(_ outcome: ScenarioOutcome, _ watch: RaceWatch, _ scene: Scene) {
        if let violation = outcome.violations.first { scene.fail(violation, kind: .invariant) }
        for statement in outcome.statements { expect(statement, scene) }
        if let what = orders.objection(to: outcome.statements, watch.spans) { scene.fail(what, kind: .value) }
    }
}

/// The expectations of one statement.
private func expect(_ outcome: StatementOutcome, _ scene: Scene) {
    if let failed = outcome.failedExpectations.first {
        let what = "line \(outcome.statement.line) answers '\(outcome.result.text)', not '\(failed.text)'"
        scene.fail(what, kind: .expectation)
    }
}

/// Runs the groups of a race as threads of a scene, and notes which statements overlapped.
///
/// Used by the virtual threads of one scheduler only, which run one at a time.
private final class RaceWatch: RaceRunner, @unchecked Sendable {
    private unowned let scene: Scene
    unowned var player: Player!
    /// By line: when the statement began and ended, in events of the whole scenario.
    private(set) var spans: [Int: SerialOrders.Span] = [:]
    private var events = 0
    private var underWay = 0
    private var isRacing = false

    init(_ scene: Scene) { self.scene = scene }

    func run(_ groups: [(name: String, body: () -> Void)]) {
        isRacing = true
        defer { isRacing = false }
        for group in groups { scene.thread(group.name, group.body) }
        scene.join()
    }

    func begins(_ statement: Statement) {
        events += 1
        underWay += 1
        spans[statement.line] = .init(begin: events, end: .max)
        scene.mark(statement.line)
    }

    func ended(_ outcome: StatementOutcome) {
        events += 1
        underWay -= 1
        let line = outcome.statement.line
        spans[line]?.end = events
        // A race is run to its end: what happens later may say why. Without one there is nothing to see.
        if !isRacing { expect(outcome, scene) }
        guard underWay == 0 else { return }
        let faults = scene.scheduler.whileObserving { player.faults }
        if let fault = faults.first { scene.fail("after line \(line): \(fault)", kind: .invariant) }
    }
}
