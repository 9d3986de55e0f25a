import CLivePlay
import Glibc
import HMM
import HMMLive
import HMMScenario

/// A process's side of a scenario: runs what the player asks for, and ends the process when it is asked to, or when the
/// player is gone.
final class LiveServer: @unchecked Sendable {
    private let scenario: Scenario
    private let options: LivePlayer.Options
    /// Of all processes: those that are forked later take theirs from here. Immutable.
    private let sockets: [LineSocket]
    private let process: LiveProcess
    private let socket: LineSocket
    /// By their lines. Immutable.
    private let statements: [Int: Statement]
    /// What had been counted when the process began.
    private let inherited: PlaySummary
    private let lock = FairMutex(.driver)
    /// What statements did beside answering, without what `SharedPages` sees. Guarded by `lock`.
    private var effects: [LiveEffect] = []
    /// Threads of a race. Touched by the thread that serves.
    private var threads: [SyncThread] = []
    /// The processes that this one forked and that may still run. Guarded by `lock`.
    private var children: [pid_t] = []

    private init(_ process: LiveProcess, of scenario: Scenario, options: LivePlayer.Options, sockets: [LineSocket]) {
        self.process = process
        self.scenario = scenario
        self.options = options
        self.sockets = sockets
        socket = sockets[process.id.index]
        statements = Dictionary(scenario.statements.map { ($0.line, $0) }, uniquingKeysWith: { first, _ in first })
        var summary = PlaySummary()
        summary.noteCounts(of: process.space.machine)
        inherited = summary
    }

    /// The first process, in the process just forked for it.
    static func serveMain(of scenario: Scenario, options: LivePlayer.Options, sockets: [LineSocket]) -> Never {
        let refusal: String
        do throws(HMMError) {
            let error = clive_play_take_signals()
            guard error == 0 else { throw HMMError(errno: -error) }
            var configuration = LiveSpace.Configuration()
            configuration.profile = options.profile
            // What scenarios say of a page must not depend on its neighbours.
            configuration.faultAroundPages = 1
            configuration.tellsZeroPages = true
            configuration.defaultFaults = .onThread
            let process = LiveProcess(scenario, space: try LiveSpace.start(configuration))
            LiveServer(process, of: scenario, options: options, sockets: sockets).serve(greets: true)
        } catch {
            refusal = error.description
        }
        _ = sockets[0].send(LiveReply(result: .failed(refusal)).text)
        _exit(0)
    }

    private func serve(greets: Bool) -> Never {
        process.inChild = { [self] child in
            let process = LiveProcess(child, childOf: process)
            LiveServer(process, of: scenario, options: options, sockets: sockets).serve(greets: false)
        }
        process.inParent = { [self] child, pid, pages in
            lock.withLock { children.append(pid) }
            note(.forked(process: child.index, pid: Int(pid)))
            pages.forEach { note(.shared(child: child.index, $0)) }
        }
        if greets { answer(LiveReply()) }
        while let text = socket.receive() {
            guard let request = LiveRequest(text: text) else { break }
            take(request)
        }
        _exit(1)
    }

    private func answer(_ reply: LiveReply) {
        if !socket.send(reply.text) { _exit(1) }
    }

    private func take(_ request: LiveRequest) {
        switch request {
        case .run(let line, let ownThread, let twins):
            guard let statement = statements[line] else { preconditionFailure("line \(line) holds no statement") }
            if statement.verb.endsProcess { exit(statement) }
            if ownThread {
                threads.append(SyncThread.spawn(name: "line \(line)") { [self] in answer(run(statement, twins)) })
            } else {
                answer(run(statement, twins))
            }
        case .bringHome(let device, let isReleased):
            answer(bringHome(DeviceID(index: device), isReleased: isReleased))
        case .follow(let move): answer(LiveReply(result: process.follow(move)))
        case .walk(let pages):
            process.walk(pages)
            answer(LiveReply())
        case .look(let pages): answer(LiveReply(effects: process.filePages(pages)))
        case .end: finish()
        }
    }

    // MARK: Statements

    /// The pages of the statement's range in `twins` are mapped by other processes too.
    private func run(_ statement: Statement, _ twins: [Twin]) -> LiveReply {
        let wasOpen = statement.device.map { process.mirrors.isOpen($0) } ?? false
        let range = statement.range(in: scenario)
        if statement.isMigration, let range {
            process.willCollect(twins, in: range.region, range.pages).forEach(note)
        }
        let result = Call(process: process, scenario: scenario, statement: statement).run()
        if let device = statement.device, !result.isError {
            if statement.verb.word == "release" { note(.released(device: device.index)) }
            if wasOpen, !process.mirrors.isOpen(device) { note(.closed(device: device.index)) }
        }
        let effects = takeEffects() + process.shared.effects(in: process)
        if let range {
            let moves = effects.compactMap { if case .moved(let move) = $0 { move } else { nil } }
            process.didBringHome(moves, twins: twins, kept: statement.maps ? range.pages : 0..<0)
        }
        let broken = options.checksInvariants ? process.faults.map(LiveEffect.broken) : []
        return LiveReply(line: statement.line, result: result, note: process.takeNote(), effects: effects + broken)
    }

    private func note(_ effect: LiveEffect) { lock.withLock { effects.append(effect) } }

    private func takeEffects() -> [LiveEffect] {
        lock.withLock {
            defer { effects = [] }
            return effects
        }
    }

    private func bringHome(_ id: DeviceID, isReleased: Bool) -> LiveReply {
        do throws(HMMError) {
            let device = try process.devices.device(id)
            if isReleased { try device.release() } else { device.bringAllHome() }
        } catch {
            return LiveReply(result: StatementResult(error))
        }
        return LiveReply(effects: process.shared.effects(in: process))
    }

    // MARK: The end

    /// The `exit` of a scenario: the memory goes, the mirrors close. The process itself stays until its children are
    /// gone, so that none is left to strangers.
    private func exit(_ statement: Statement) -> Never {
        threads.forEach { $0.join() }
        for device in scenario.devices.indices where process.mirrors.isOpen(DeviceID(index: device)) {
            note(.closed(device: device))
        }
        for mirror in process.devices.openMirrors { mirror.abandon() }
        process.unmapAll()
        answer(LiveReply(line: statement.line, note: counts, effects: takeEffects()))
        leave()
    }

    /// The scenario is over: everything is given back in order, and what cannot be is told.
    private func finish() -> Never {
        threads.forEach { $0.join() }
        process.mirrors.closeAll()
        var broken = process.devices.removeAll()
        if options.checksInvariants {
            broken += process.faults
            // Only when nothing is away the machine's own books can be checked: they do not know who has frames.
            process.unmapAll()
            process.space.deliverInvalidations()
            broken += process.space.machine.checkInvariants()
        }
        answer(LiveReply(note: counts, effects: broken.map(LiveEffect.broken)))
        leave()
    }

    private func leave() -> Never {
        for child in lock.withLock({ children }) { clive_play_reap(child) }
        _exit(0)
    }

    /// What the process itself has cost.
    private var counts: String {
        var summary = PlaySummary()
        summary.noteCounts(of: process.space.machine)
        return summary.countsText(since: inherited)
    }
}
