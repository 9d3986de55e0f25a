import HMMScenario

// Races: each group has a statement under way at any time, in a thread of the process that it belongs to.

extension LivePlayer {
    private struct GroupState {
        let statements: [Statement]
        var outcomes: [StatementOutcome] = []
        var isWaiting = false

        var next: Statement? { !isWaiting && outcomes.count < statements.count ? statements[outcomes.count] : nil }
        var isDone: Bool { outcomes.count == statements.count }
    }

    /// The outcomes group by group, which is the order of the text.
    func run(_ race: Race) -> [StatementOutcome] {
        var states = race.groups.map { GroupState(statements: $0.statements) }
        while !states.allSatisfy(\.isDone) {
            for index in states.indices { advance(index, &states) }
            let statements = states.filter(\.isWaiting).map { $0.statements[$0.outcomes.count] }
            let waiting = Set(statements.map(\.process.index)).sorted()
            guard !waiting.isEmpty else { continue }
            take(from: waiting, &states)
        }
        return states.flatMap(\.outcomes)
    }

    /// Sends a group's next statement, unless its process forks, which it does alone: the child has only the thread
    /// that forked, and what another thread had locked would stay so for ever.
    private func advance(_ index: Int, _ states: inout [GroupState]) {
        guard let statement = states[index].next else { return }
        let process = statement.process.index
        guard peers[process].isRunning else {
            states[index].outcomes.append(StatementOutcome(statement: statement, result: .error("ESRCH")))
            return
        }
        let others = states.filter(\.isWaiting).map { $0.statements[$0.outcomes.count] }
            .filter { $0.process.index == process }
        let isAlone = statement.verb.forks || statement.verb.endsProcess
        guard others.isEmpty || !(isAlone || others.contains { $0.verb.forks || $0.verb.endsProcess }) else { return }
        states[index].isWaiting = true
        let twins = twins(of: statement, isAlone: false)
        _ = peers[process].socket.send(LiveRequest.run(line: statement.line, ownThread: true, twins: twins).text)
    }

    /// Takes one answer of one of the processes.
    private func take(from processes: [Int], _ states: inout [GroupState]) {
        for process in processes {
            guard let reply = early[process]?.first else { continue }
            early[process]?.removeFirst()
            return finish(reply, &states)
        }
        let (which, arrival) = LivePeer.next(
            of: processes.map { peers[$0] }, milliseconds: options.patienceMilliseconds)
        let process = processes[which]
        guard case .reply(let reply) = arrival else {
            guard case .lost(let words) = arrival else { return }
            let lost = lose([process], words)
            for index in states.indices where states[index].isWaiting { finish(index, lost, &states) }
            return
        }
        finish(reply, &states)
    }

    private func finish(_ reply: LiveReply, _ states: inout [GroupState]) {
        let index = states.indices.first { index in
            states[index].isWaiting && states[index].statements[states[index].outcomes.count].line == reply.line
        }
        if let index { finish(index, reply, &states) }
    }

    private func finish(_ index: Int, _ reply: LiveReply, _ states: inout [GroupState]) {
        let statement = states[index].statements[states[index].outcomes.count]
        states[index].isWaiting = false
        states[index].outcomes.append(take(reply, of: statement))
    }
}

extension Verb {
    /// The statement makes a process.
    fileprivate var forks: Bool { parameters.contains(.newProcess) }
}
