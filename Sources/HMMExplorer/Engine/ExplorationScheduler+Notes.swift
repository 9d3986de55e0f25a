import HMM

// What the steps of a schedule mean for who can go on: locks that are held, threads that gave way.

extension ExplorationScheduler {
    /// Threads whose next step is to wait for a lock that somebody holds.
    @inline(__always)
    var waitingForLocks: ThreadSet {
        var waiting: ThreadSet = 0
        var rest = progress.pointee.runnable
        while rest != 0 {
            let thread = rest.first
            rest &= rest &- 1
            let next = pending[thread]
            if next.kind.rawValue > StepKind.acquireShared.rawValue || next.object < 0 { continue }
            let object = objects.pointee.objects[Int(next.object)]
            let isHeld = object.owner >= 0 || (next.kind == .acquire && object.sharers != 0)
            if isHeld { waiting |= .only(thread) }
        }
        return waiting
    }

    /// `thread` makes the step that it announced.
    @inline(__always)
    func note(_ thread: Int) {
        let s = progress
        let next = pending[thread]
        steps[s.pointee.stepCount] = Step(
            thread: UInt8(truncatingIfNeeded: thread), kind: next.kind, mark: next.mark, object: next.object)
        s.pointee.stepCount += 1
        if next.kind.changes { s.pointee.isChanged = true }
        if s.pointee.gaveWay != 0 { letGoOn(thread, next) }
        if next.kind == .yield { noteYield(thread) }
        if next.kind.rawValue <= StepKind.releaseShared.rawValue, next.object >= 0 {
            noteLock(thread, next.kind, &objects.pointee.objects[Int(next.object)])
        }
    }

    /// Whether a step takes a lock: a try for one that is held does not.
    @inline(__always)
    func takesLock(_ next: Pending) -> Bool {
        guard next.kind.rawValue <= StepKind.tryAcquireShared.rawValue, next.object >= 0 else { return false }
        let object = objects.pointee.objects[Int(next.object)]
        let isShared = next.kind == .acquireShared || next.kind == .tryAcquireShared
        return object.owner < 0 && (isShared || object.sharers == 0)
    }

    @inline(__always)
    private func noteLock(_ thread: Int, _ kind: StepKind, _ object: inout ObjectTable.Object) {
        switch kind {
        case .acquire, .tryAcquire:
            guard object.owner < 0, object.sharers == 0 else { return }
            object.owner = Int32(truncatingIfNeeded: thread)
            progress.pointee.heldLocks += 1
        case .acquireShared, .tryAcquireShared:
            guard object.owner < 0 else { return }
            object.sharers |= .only(thread)
            progress.pointee.heldLocks += 1
        case .release:
            if object.owner >= 0 { progress.pointee.heldLocks -= 1 }
            object.owner = -1
        default:
            if object.sharers.has(thread) { progress.pointee.heldLocks -= 1 }
            object.sharers &= ~.only(thread)
        }
    }
}
