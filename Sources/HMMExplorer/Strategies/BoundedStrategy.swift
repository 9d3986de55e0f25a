/// All schedules with at most `limit` preemptions, depth first: places where a thread that could go on does not.
///
/// Source: "Iterative Context Bounding for Systematic Testing of Multithreaded Programs", Musuvathi and Qadeer (PLDI
/// 2007): most races need one or two.
final class BoundedStrategy: Strategy {
    private struct Node {
        var enabled: ThreadSet
        var untried: ThreadSet
        var chosen: UInt8
        /// The thread that made the step before.
        var current: UInt8
        /// Preemptions before this step.
        var preemptions: Int32
    }

    private let limit: Int32
    @exclusivity(unchecked) private var nodes: [Node] = []
    private var isFirst = true

    init(limit: Int) { self.limit = Int32(clamping: limit) }

    override var sharedPrefix: Int { max(nodes.count - 1, 0) }

    override func begin() -> Bool {
        if isFirst {
            isFirst = false
            return true
        }
        while let last = nodes.last {
            if last.untried != 0 {
                let next = last.untried.first
                nodes[nodes.count - 1].untried &= ~.only(next)
                nodes[nodes.count - 1].chosen = UInt8(next)
                return true
            }
            nodes.removeLast()
        }
        return false
    }

    override func choose(_ enabled: ThreadSet, depth: Int, _ scheduler: ExplorationScheduler) -> Int {
        let current = scheduler.current
        if depth < nodes.count {
            scheduler.expect(enabled == nodes[depth].enabled)
            return Int(nodes[depth].chosen)
        }
        var preemptions: Int32 = 0
        if let last = nodes.last {
            let isPreemption = last.enabled.has(Int(last.current)) && last.chosen != last.current
            preemptions = last.preemptions + (isPreemption ? 1 : 0)
        }
        let chosen = Schedule.obvious(enabled: enabled, current: current)
        let costs = enabled.has(current)
        let others = costs && preemptions >= limit ? 0 : enabled & ~.only(chosen)
        nodes.append(
            Node(
                enabled: enabled, untried: others, chosen: UInt8(chosen), current: UInt8(current),
                preemptions: preemptions))
        return chosen
    }
}
