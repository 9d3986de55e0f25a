/// Decides at every step which of the threads that can go on does.
///
/// One object serves one series of schedules on one thread of the system. Subclasses override what they need.
class Strategy {
    /// A schedule begins. False: there is none left that was not run.
    func begin() -> Bool { true }
    /// Which thread makes step number `depth`. `enabled` is not empty; `scheduler` tells what each thread is about to
    /// do.
    func choose(_ enabled: ThreadSet, depth: Int, _ scheduler: ExplorationScheduler) -> Int {
        Schedule.obvious(enabled: enabled, current: scheduler.current)
    }
    /// `parent` has made `child`, which nobody has chosen yet.
    func spawned(_ child: Int, by parent: Int) {}
    /// The schedule came to its end after `steps` steps.
    func end(steps: Int) {}

    /// How many steps of the schedule under way are the same as in the one before: nothing new can be found there.
    var sharedPrefix: Int { 0 }
    /// Schedules that were left because others already stand for them.
    var cutSchedules: Int { 0 }
}
