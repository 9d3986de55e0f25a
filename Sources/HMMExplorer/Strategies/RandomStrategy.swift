import HMM

/// Any thread may go on at any step. How often threads change is itself drawn for each schedule, and every eighth
/// schedule repeats a random pattern for ever, as a fair machine might: that finds cycles in which nobody gets on,
/// which independent random steps leave too soon.
final class RandomStrategy: Strategy {
    /// Behind a pointer: it changes with every step.
    private let generator: UnsafeMutablePointer<UInt64>
    @exclusivity(unchecked) private var run = 0
    @exclusivity(unchecked) private var stayBits: UInt64 = 1
    @exclusivity(unchecked) private var pattern: [(thread: Int, steps: Int)] = []
    @exclusivity(unchecked) private var place = 0
    @exclusivity(unchecked) private var left = 0

    init(seed: UInt64) {
        generator = .allocate(capacity: 1)
        generator.initialize(to: seed)
    }

    deinit { generator.deallocate() }

    override func begin() -> Bool {
        run += 1
        stayBits = [0, 1, 3, 5][Int(SplitMix.next(&generator.pointee) % 4)]
        pattern.removeAll(keepingCapacity: true)
        if run % 8 == 0 { drawPattern() }
        return true
    }

    private func drawPattern() {
        for _ in 0..<Int(2 + SplitMix.next(&generator.pointee) % 3) {
            let quantum = 1 + SplitMix.next(&generator.pointee) % (1 << (SplitMix.next(&generator.pointee) % 7))
            pattern.append((Int(SplitMix.next(&generator.pointee) % 4), Int(quantum)))
        }
        place = 0
        left = pattern[0].steps
    }

    override func choose(_ enabled: ThreadSet, depth: Int, _ scheduler: ExplorationScheduler) -> Int {
        if !pattern.isEmpty { return choosePattern(enabled, scheduler.current) }
        let number = SplitMix.next(&generator.pointee)
        // Stays with probability 1 - 2^-stayBits.
        let stays = stayBits > 0 && number & ((1 << stayBits) - 1) != 0
        if stays, enabled.has(scheduler.current) { return scheduler.current }
        return Self.nth(Int((number &>> 32) % UInt64(enabled.nonzeroBitCount)), of: enabled)
    }

    private func choosePattern(_ enabled: ThreadSet, _ current: Int) -> Int {
        if left == 0 {
            place = (place + 1) % pattern.count
            left = pattern[place].steps
        }
        left -= 1
        return Self.nth(pattern[place].thread % enabled.nonzeroBitCount, of: enabled)
    }

    @inline(__always)
    static func nth(_ n: Int, of set: ThreadSet) -> Int {
        var rest = set
        for _ in 0..<n { rest &= rest &- 1 }
        return rest.first
    }
}
