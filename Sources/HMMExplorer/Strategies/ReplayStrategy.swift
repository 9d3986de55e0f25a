/// Follows one schedule. A detour to a thread that cannot go on is left out, so a schedule may be tried that nobody
/// ran.
class ReplayStrategy: Strategy {
    private let schedule: Schedule
    private var next = 0
    private var isDone = false

    init(_ schedule: Schedule) { self.schedule = schedule }

    override func begin() -> Bool {
        defer { isDone = true }
        next = 0
        return !isDone
    }

    override func choose(_ enabled: ThreadSet, depth: Int, _ scheduler: ExplorationScheduler) -> Int {
        let obvious = Schedule.obvious(enabled: enabled, current: scheduler.current)
        while next < schedule.detours.count, schedule.detours[next].step < depth { next += 1 }
        guard next < schedule.detours.count, schedule.detours[next].step == depth else { return obvious }
        let wanted = schedule.detours[next].thread
        return wanted < ExplorationScheduler.threadLimit && enabled.has(wanted) ? wanted : obvious
    }
}
