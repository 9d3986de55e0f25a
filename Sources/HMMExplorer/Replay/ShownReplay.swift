import HMM

extension ExplorationScheduler {
    /// What the threads that have not come to their end are about to do, but for the one that started the others.
    var waitingSteps: [Step] {
        names.indices.filter { progress.pointee.unfinished.has($0) && $0 != progress.pointee.parent }.map { thread in
            let next = pending[thread]
            return Step(thread: UInt8(thread), kind: next.kind, mark: next.mark, object: next.object)
        }
    }
}

/// Follows one schedule, counts its preemptions, and learns the names of the objects as they appear: later they may be
/// gone, with the address spaces and drivers that know what they were.
final class ShownReplay: ReplayStrategy {
    /// Steps made by a thread while the one before could have gone on.
    private(set) var preemptions = 0
    private var names: [UInt: String] = [:]
    private var namedObjects = 0
    private let nameOf: ((UInt) -> String?)?

    init(_ schedule: Schedule, nameOf: ((UInt) -> String?)? = nil) {
        self.nameOf = nameOf
        super.init(schedule)
    }

    override func choose(_ enabled: ThreadSet, depth: Int, _ scheduler: ExplorationScheduler) -> Int {
        if nameOf != nil { learnNames(scheduler) }
        let chosen = super.choose(enabled, depth: depth, scheduler)
        if chosen != scheduler.current, enabled.has(scheduler.current) { preemptions += 1 }
        return chosen
    }

    /// What stands at an address.
    func name(_ address: UInt) -> String? { names[address] ?? nameOf?(address) }

    private func learnNames(_ scheduler: ExplorationScheduler) {
        while namedObjects < scheduler.objects.pointee.count {
            let address = scheduler.objects.pointee.objects[namedObjects].address
            names[address] = scheduler.whileObserving { nameOf?(address) }
            namedObjects += 1
        }
    }
}
