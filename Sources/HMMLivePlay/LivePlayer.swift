import CLivePlay
import Glibc
import HMM
import HMMScenario

/// Plays a scenario with real processes on their own memory.
///
/// This process stays outside: it forks the first one, tells each what to do, and tells the others what in one kernel
/// would reach them. It makes no threads and has no memory of the scenario, so the next one begins as clean.
package final class LivePlayer {
    package struct Options: Sendable {
        package var profile = KernelProfile.linux6_12
        /// Check what can be checked of the machine of each process and its mirrors after every statement.
        package var checksInvariants = false
        /// How long a process may take for an answer.
        package var patienceMilliseconds: Int32 = 30_000

        package init() {}
    }

    /// Scenarios cannot be played here, and why.
    package struct Unavailable: Error, CustomStringConvertible {
        package let description: String
    }

    let scenario: Scenario
    let options: Options
    /// By the process's number.
    var peers: [LivePeer] = []
    private var groups: ShareGroups
    /// Who else maps pages of a file or of shared memory, page by page: of the statement under way.
    private var mappers: [RegionPages: [Int]] = [:]
    /// Answers to statements of a race that came while another answer was waited for, by the process's number.
    var early: [Int: [LiveReply]] = [:]
    /// The regions of shared memory and of files.
    private let fileRegions: Set<Int>
    private var outcome: ScenarioOutcome

    package init(_ scenario: Scenario, _ options: Options = Options()) {
        self.scenario = scenario
        self.options = options
        groups = ShareGroups(processCount: scenario.processes.count)
        fileRegions = Set(scenario.statements.compactMap(\.fileRegion))
        outcome = ScenarioOutcome(scenario: scenario)
    }

    /// As `Player.play`. Called once, from a process without other threads.
    package func play(_ report: (StatementOutcome) -> Void = { _ in }) throws(Unavailable) -> ScenarioOutcome {
        let begin = SyncClock.now()
        try start()
        defer { peers.forEach { $0.close() } }
        for step in scenario.steps {
            let outcomes =
                switch step {
                case .statement(let statement): [run(statement)]
                case .race(let race): run(race)
                }
            outcomes.forEach(report)
            outcome.statements += outcomes
        }
        finish()
        outcome.summary.note(outcome.statements)
        outcome.summary.nanoseconds = SyncClock.now() - begin
        return outcome
    }

    private func start() throws(Unavailable) {
        var ends: [LineSocket] = []
        for _ in scenario.processes {
            guard let (here, there) = LineSocket.pair() else {
                throw Unavailable(description: "no socket: \(String(cString: strerror(errno)))")
            }
            peers.append(LivePeer(socket: here))
            ends.append(there)
        }
        let pid = clive_play_fork()
        guard pid >= 0 else { throw Unavailable(description: "no process: \(String(cString: strerror(errno)))") }
        if pid == 0 {
            // Nobody but the player may hold its ends, so that processes see when it is gone.
            peers.forEach { $0.socket.close() }
            LiveServer.serveMain(of: scenario, options: options, sockets: ends)
        }
        ends.forEach { $0.close() }
        peers[0].start(pid)
        if case .failed(let words) = answer(of: 0).result {
            peers[0].kill()
            _ = clive_play_reap(pid)
            throw Unavailable(description: words)
        }
    }

    /// The scenario is over. Children first, as a shell would wait for them.
    private func finish() {
        for process in peers.indices.reversed() where peers[process].isRunning {
            let reply = ask(process, .end)
            outcome.summary.addCounts(text: reply.note)
            noteBroken(reply, "at the end")
            if case .failed(let words) = reply.result { outcome.violations.append("at the end: \(words)") }
            peers[process].end()
        }
        _ = clive_play_reap(peers[0].pid)
    }

    // MARK: Requests

    /// A request that nobody else waits for, and its answer.
    private func ask(_ process: Int, _ request: LiveRequest) -> LiveReply {
        guard peers[process].socket.send(request.text) else { return lose([process], "the process has gone") }
        if case .run(let line, _, _) = request { return answer(of: process, line: line) }
        return answer(of: process)
    }

    /// - Parameter line: of the statement; 0: the answer to another request.
    private func answer(of process: Int, line: Int = 0) -> LiveReply {
        while true {
            switch LivePeer.next(of: [peers[process]], milliseconds: options.patienceMilliseconds).arrival {
            case .reply(let reply) where reply.line == line: return reply
            case .reply(let reply): early[process, default: []].append(reply)
            case .lost(let words): return lose([process], words)
            }
        }
    }

    /// These do not go on. Without them the others cannot make sense of what they share, so all end.
    func lose(_ processes: [Int], _ words: String) -> LiveReply {
        for process in peers.indices {
            peers[process].kill()
            peers[process].end()
        }
        let names = processes.map { scenario.processes[$0] }.joined(separator: ", ")
        return LiveReply(result: .failed("\(names): \(words)"))
    }

    // MARK: Statements

    func run(_ statement: Statement) -> StatementOutcome {
        guard peers[statement.process.index].isRunning else {
            return StatementOutcome(statement: statement, result: .error("ESRCH"))
        }
        let twins = twins(of: statement, isAlone: true)
        return take(
            ask(statement.process.index, .run(line: statement.line, ownThread: false, twins: twins)), of: statement)
    }

    /// Pages of the statement's range that other processes map too. Of shared memory and of files only they themselves
    /// can tell; that matters when pages are collected, and can be asked while nothing else is under way.
    func twins(of statement: Statement, isAlone: Bool) -> [Twin] {
        mappers = [:]
        guard let range = statement.range(in: scenario) else { return [] }
        let process = statement.process.index
        if isAlone, statement.isMigration, fileRegions.contains(range.region) {
            for other in peers.indices where other != process && peers[other].isRunning {
                for case .mapped(let pages) in ask(other, .look(range)).effects {
                    for page in pages.pages {
                        mappers[RegionPages(region: range.region, pages: page..<page + 1), default: []].append(other)
                    }
                }
            }
        }
        return groups.twins(of: range, process, mappers: mappers)
    }

    /// Makes known to the others what a statement did.
    func take(_ reply: LiveReply, of statement: Statement) -> StatementOutcome {
        let process = statement.process.index
        let ends = statement.verb.endsProcess && !reply.result.isError
        if ends {
            // Its memory went first, and it shares nothing when its devices are closed.
            peers[process].end()
            groups.leaveAll(by: process)
        }
        for effect in reply.effects {
            switch effect {
            case .forked(let child, let pid):
                peers[child].start(pid_t(pid))
                groups.fork(child, of: process, sharing: reply.effects.compactMap(\.shared))
            case .shared, .mapped: break
            case .moved(let move): spread(move, of: process, after: statement)
            case .collected(let pages): spreadWalk(pages, of: process, after: statement)
            case .left(let pages): groups.leave(pages, by: process)
            case .closed(let device): tellOthers(of: process, .bringHome(device: device, isReleased: false), statement)
            case .released(let device): tellOthers(of: process, .bringHome(device: device, isReleased: true), statement)
            case .broken(let words): outcome.violations.append("after line \(statement.line): \(words)")
            }
        }
        if let region = statement.fileRegion, !reply.result.isError { groups.mapFile(region, by: process) }
        guard ends else { return StatementOutcome(statement: statement, result: reply.result, note: reply.note) }
        outcome.summary.addCounts(text: reply.note)
        return StatementOutcome(statement: statement, result: reply.result)
    }

    /// Pages that others share went somewhere: theirs go too, and the mirrors of the family hear of it.
    private func spread(_ move: SharedMove, of process: Int, after statement: Statement) {
        spreadWalk(move.pages, of: process, after: statement)
        for (other, move) in groups.others(move, of: process) { tell(other, .follow(move), after: statement) }
    }

    private func spreadWalk(_ pages: RegionPages, of process: Int, after statement: Statement) {
        for (other, pages) in groups.walks(pages, process, mappers: mappers) {
            tell(other, .walk(pages), after: statement)
        }
    }

    private func tellOthers(of process: Int, _ request: LiveRequest, _ statement: Statement) {
        for other in peers.indices where other != process { tell(other, request, after: statement) }
    }

    private func tell(_ process: Int, _ request: LiveRequest, after statement: Statement) {
        guard peers[process].isRunning else { return }
        let reply = ask(process, request)
        noteBroken(reply, "after line \(statement.line)")
        for effect in reply.effects {
            if case .moved(let move) = effect { spread(move, of: process, after: statement) }
            if case .left(let pages) = effect { groups.leave(pages, by: process) }
        }
        guard reply.result != .ok else { return }
        outcome.violations.append("after line \(statement.line): \(scenario.processes[process]): \(reply.result.text)")
    }

    private func noteBroken(_ reply: LiveReply, _ place: String) {
        for case .broken(let words) in reply.effects { outcome.violations.append("\(place): \(words)") }
    }
}
