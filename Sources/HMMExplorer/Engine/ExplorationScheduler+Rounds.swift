// Loops that wait for others by giving way: when one more turn would see the same, somebody else has to move first.
// Otherwise every number of turns would be an order of its own.

/// Where a thread gave way: between the two steps lies its last turn of a loop, if it is in one.
struct Round {
    var begin = -1
    var end = -1
}

extension ExplorationScheduler {
    /// The thread gave way, by the step that was just noted. If it did the same twice, and nobody else did in the
    /// meantime what matters to it, it is taken for one that waits.
    ///
    /// A thread that gives way for another reason is held up too, after the second time that it made the same steps.
    @inline(never)
    func noteYield(_ thread: Int) {
        let step = progress.pointee.stepCount - 1
        let last = rounds[thread]
        rounds[thread] = Round(begin: last.end, end: step)
        guard last.begin >= 0, isSame(last, rounds[thread], of: thread) else { return }
        let meanwhile = (last.end + 1..<step).contains { index in
            Int(steps[index].thread) != thread && matters(steps[index].kind, steps[index].object, to: thread)
        }
        if !meanwhile { progress.pointee.gaveWay |= .only(thread) }
    }

    /// A thread makes a step while others wait.
    @inline(never)
    func letGoOn(_ thread: Int, _ next: Pending) {
        var rest = progress.pointee.gaveWay
        while rest != 0 {
            let waiter = rest.first
            rest &= rest &- 1
            // One that goes on because nobody else can is not held up in the middle of its turn.
            if waiter == thread || matters(next.kind, next.object, to: waiter) {
                progress.pointee.gaveWay &= ~.only(waiter)
            }
        }
    }

    /// Whether a step of somebody else depends on one of the thread's last round. If that touched nothing, any does.
    private func matters(_ kind: StepKind, _ object: Int32, to thread: Int) -> Bool {
        var touches = false
        for index in rounds[thread].begin + 1..<rounds[thread].end where Int(steps[index].thread) == thread {
            let own = steps[index]
            if own.object >= 0 { touches = true }
            if Step.depend(own.kind, own.object, kind, object) { return true }
        }
        return !touches
    }

    /// Whether a thread made the same steps in two rounds.
    private func isSame(_ first: Round, _ second: Round, of thread: Int) -> Bool {
        var (one, other) = (first.begin + 1, second.begin + 1)
        while true {
            while one < first.end, Int(steps[one].thread) != thread { one += 1 }
            while other < second.end, Int(steps[other].thread) != thread { other += 1 }
            if one == first.end || other == second.end { return one == first.end && other == second.end }
            if steps[one].kind != steps[other].kind || steps[one].object != steps[other].object { return false }
            one += 1
            other += 1
        }
    }
}
