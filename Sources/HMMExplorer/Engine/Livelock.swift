/// Threads that get their turn again and again, and get nowhere.
enum Livelock {
    /// The schedule reached its limit, and every thread had its turn ever since: shows what repeats, if it does.
    static func finding(_ scheduler: ExplorationScheduler) -> ScheduleFinding {
        let count = scheduler.stepCount
        let first = scheduler.progress.pointee.stepLimit
        guard let period = period(scheduler.steps, first..<count) else {
            return ScheduleFinding(
                kind: .livelock,
                what: "no end after \(count) steps, the last \(count - first) of them in turn; "
                    + "either there is none, or the schedule needs a higher limit of steps than \(first)")
        }
        let cycle = ((count - period)..<count).map { index in
            let step = scheduler.steps[index]
            return "\(scheduler.names[Int(step.thread)]) \(step.kind) \(scheduler.describe(step.object))"
        }
        var finding = ScheduleFinding(
            kind: .livelock, what: "\(period) steps repeat for ever, though every thread has its turn")
        finding.cycle = cycle
        return finding
    }

    /// The shortest period with which the steps of `range` end, at least three times over.
    private static func period(_ steps: UnsafeMutablePointer<Step>, _ range: Range<Int>) -> Int? {
        let end = range.upperBound
        var length = 1
        while length * 3 <= range.count {
            var offset = 1
            while offset <= length * 2, steps[end - offset] == steps[end - offset - length] { offset += 1 }
            if offset > length * 2 { return length }
            length += 1
        }
        return nil
    }
}
