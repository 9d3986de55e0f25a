/// Threads that wait for each other, or for somebody who is gone.
enum Deadlock {
    static func finding(_ scheduler: ExplorationScheduler) -> ScheduleFinding {
        let waits = waits(scheduler)
        let cycle = cycle(in: waits)
        let shown = cycle.isEmpty ? waits : cycle
        let lines = shown.map { wait in
            let name = scheduler.names[wait.thread]
            let object = scheduler.describe(wait.object)
            guard let holder = wait.holder else { return "\(name) sleeps on \(object), and nobody is left to wake it" }
            return "\(name) waits for \(object), held by \(scheduler.names[holder])"
        }
        return ScheduleFinding(kind: .deadlock, what: lines.joined(separator: "; "))
    }

    private struct Wait {
        var thread: Int
        var object: Int32
        var holder: Int?
    }

    private static func waits(_ scheduler: ExplorationScheduler) -> [Wait] {
        scheduler.waitingSteps.map { next in
            let thread = Int(next.thread)
            guard next.object >= 0 else { return Wait(thread: thread, object: next.object, holder: nil) }
            let object = scheduler.objects.pointee.objects[Int(next.object)]
            var holder: Int? = object.owner >= 0 ? Int(object.owner) : nil
            if holder == nil, object.sharers != 0 { holder = object.sharers.first }
            return Wait(thread: thread, object: next.object, holder: holder)
        }
    }

    /// The threads of a ring of waits, or nothing if there is none.
    private static func cycle(in waits: [Wait]) -> [Wait] {
        for start in waits {
            var chain = [start]
            while let holder = chain.last?.holder, let next = waits.first(where: { $0.thread == holder }) {
                if next.thread == start.thread { return chain }
                if chain.contains(where: { $0.thread == next.thread }) { break }
                chain.append(next)
            }
        }
        return []
    }
}
