/// What happens before what in the schedule under way, and which of its steps race.
///
/// Each step carries a clock: for every thread, how many of its steps (counted along the schedule) come before. Steps
/// of one thread are ordered, and so are dependent steps on one object. Two dependent steps race if nothing else orders
/// them and each could have been first.
final class Races {
    typealias Clock = SIMD16<Int32>

    /// Who touched an object last. Step numbers are one higher than their index; 0 is never.
    private struct Object {
        /// The last exclusive step.
        var write: Int32 = 0
        /// The last step that took the lock exclusively.
        var take: Int32 = 0
        /// By thread: the last read, the last sharing step, and the last step that shared the lock, since `write`.
        var reads = Clock()
        var shares = Clock()
        var shareTakes = Clock()
        /// What comes before the reads and shares since `write`, themselves included.
        var readClock = Clock()
        var shareClock = Clock()
    }

    /// By thread.
    private let clocks: UnsafeMutablePointer<Clock>
    @exclusivity(unchecked) private var stepClocks: UnsafeMutablePointer<Clock>
    @exclusivity(unchecked) private var stepThreads: UnsafeMutablePointer<UInt8>
    @exclusivity(unchecked) private var stepKinds: UnsafeMutablePointer<StepKind>
    @exclusivity(unchecked) private var stepCapacity = 1 << 10
    @exclusivity(unchecked) private var objects: UnsafeMutablePointer<Object>
    @exclusivity(unchecked) private var objectCapacity = 1 << 8
    @exclusivity(unchecked) private var objectCount = 0
    /// Steps before this one were looked at in an earlier schedule.
    @exclusivity(unchecked) private var knownSteps = 0
    /// The steps that race with the last one.
    let found: UnsafeMutablePointer<Int>
    @exclusivity(unchecked) private(set) var foundCount = 0

    init() {
        clocks = .allocate(capacity: ExplorationScheduler.threadLimit)
        clocks.initialize(repeating: Clock(), count: ExplorationScheduler.threadLimit)
        stepClocks = .allocate(capacity: stepCapacity)
        stepThreads = .allocate(capacity: stepCapacity)
        stepKinds = .allocate(capacity: stepCapacity)
        objects = .allocate(capacity: objectCapacity)
        found = .allocate(capacity: ExplorationScheduler.threadLimit * 2 + 2)
    }

    deinit {
        clocks.deallocate()
        stepClocks.deallocate()
        stepThreads.deallocate()
        stepKinds.deallocate()
        objects.deallocate()
        found.deallocate()
    }

    func begin(knownSteps: Int) {
        self.knownSteps = knownSteps
        clocks.update(repeating: Clock(), count: ExplorationScheduler.threadLimit)
        objectCount = 0
    }

    func spawned(_ child: Int, by parent: Int) { clocks[child] = clocks[parent] }

    func thread(of step: Int) -> UInt8 { stepThreads[step] }

    /// Notes step `index` of the schedule, and leaves in `found` the steps that race with it. `takesLock`: whether a
    /// try for a lock gets it.
    func step(_ thread: Int, _ kind: StepKind, _ object: Int, _ index: Int, takesLock: Bool) {
        if index >= stepCapacity { growSteps() }
        foundCount = 0
        var clock = clocks[thread]
        stepThreads[index] = UInt8(truncatingIfNeeded: thread)
        stepKinds[index] = kind
        let number = Int32(truncatingIfNeeded: index + 1)
        if object >= 0, kind.conduct != .apart {
            while object >= objectCount { addObject() }
            let isNew = index >= knownSteps
            switch kind.conduct {
            case .read: read(&objects[object], thread, number, &clock, looks: isNew)
            case .shared:
                share(&objects[object], thread, kind, number, &clock, looks: isNew)
                if takesLock { objects[object].shareTakes[thread] = number }
            default:
                write(&objects[object], thread, kind, number, &clock, looks: isNew)
                if takesLock { objects[object].take = number }
            }
        }
        clock[thread] = number
        clocks[thread] = clock
        stepClocks[index] = clock
        if object >= 0 { publish(object, thread, kind, clock) }
    }

    @inline(__always)
    private func read(_ object: inout Object, _ thread: Int, _ number: Int32, _ clock: inout Clock, looks: Bool) {
        if looks {
            race(object.write, clock)
            raceAll(object.shares, thread, clock)
        }
        join(&clock, object.write)
        clock = pointwiseMax(clock, object.shareClock)
        object.reads[thread] = number
    }

    @inline(__always)
    private func share(
        _ object: inout Object, _ thread: Int, _ kind: StepKind, _ number: Int32, _ clock: inout Clock, looks: Bool
    ) {
        if looks {
            // The step before may be the release of a lock, which could not have come later: its taking could.
            let isRelease = object.write > 0 && stepKinds[Int(object.write) - 1] == .release && kind == .acquireShared
            race(isRelease ? object.take : object.write, clock)
            raceAll(object.reads, thread, clock)
        }
        join(&clock, object.write)
        clock = pointwiseMax(clock, object.readClock)
        object.shares[thread] = number
    }

    @inline(__always)
    private func write(
        _ object: inout Object, _ thread: Int, _ kind: StepKind, _ number: Int32, _ clock: inout Clock, looks: Bool
    ) {
        if looks, kind != .resume {
            let isRelease = object.write > 0 && stepKinds[Int(object.write) - 1] == .release && kind == .acquire
            race(isRelease ? object.take : object.write, clock)
            raceAll(object.reads, thread, clock)
            for other in 0..<ExplorationScheduler.threadLimit where object.shares[other] != 0 && other != thread {
                let last = object.shares[other]
                let wasRelease = stepKinds[Int(last) - 1] == .releaseShared && kind == .acquire
                race(wasRelease ? object.shareTakes[other] : last, clock)
            }
        }
        join(&clock, object.write)
        clock = pointwiseMax(clock, pointwiseMax(object.readClock, object.shareClock))
        object.write = number
        object.reads = Clock()
        object.shares = Clock()
        object.readClock = Clock()
        object.shareClock = Clock()
    }

    /// What follows on the object comes after this step.
    @inline(__always)
    private func publish(_ object: Int, _ thread: Int, _ kind: StepKind, _ clock: Clock) {
        switch kind.conduct {
        case .read: objects[object].readClock = pointwiseMax(objects[object].readClock, clock)
        case .shared: objects[object].shareClock = pointwiseMax(objects[object].shareClock, clock)
        default: break
        }
    }

    @inline(__always)
    private func join(_ clock: inout Clock, _ number: Int32) {
        if number > 0 { clock = pointwiseMax(clock, stepClocks[Int(number) - 1]) }
    }

    /// Notes the step of that number if the thread's clock does not know it.
    @inline(__always)
    private func race(_ number: Int32, _ clock: Clock) {
        guard number > 0, clock[Int(stepThreads[Int(number) - 1])] < number else { return }
        found[foundCount] = Int(number) - 1
        foundCount += 1
    }

    @inline(__always)
    private func raceAll(_ numbers: Clock, _ thread: Int, _ clock: Clock) {
        if numbers == Clock() { return }
        for other in 0..<ExplorationScheduler.threadLimit where other != thread { race(numbers[other], clock) }
    }

    /// The threads that can begin the steps after `earlier` that do not depend on it, the last one included: whose
    /// first such step has none of the others before it.
    func beginners(after earlier: Int, upTo last: Int) -> ThreadSet {
        let first = Int(stepThreads[earlier])
        let number = Int32(truncatingIfNeeded: earlier + 1)
        var seen: ThreadSet = 0
        var beginners: ThreadSet = 0
        var firsts = Clock()
        for index in (earlier + 1)...last {
            let thread = Int(stepThreads[index])
            if seen.has(thread) { continue }
            let clock = stepClocks[index]
            if index < last, clock[first] >= number { continue }
            // Steps that come after `earlier` are left out above: a thread is first met at its first step that counts.
            var isBeginner = true
            var rest = seen
            while rest != 0 {
                let other = rest.first
                rest &= rest &- 1
                if clock[other] >= firsts[other] { isBeginner = false }
            }
            seen |= .only(thread)
            firsts[thread] = Int32(truncatingIfNeeded: index + 1)
            if isBeginner { beginners |= .only(thread) }
        }
        return beginners
    }

    // MARK: Room

    private func addObject() {
        if objectCount == objectCapacity {
            let new = UnsafeMutablePointer<Object>.allocate(capacity: objectCapacity * 2)
            new.moveInitialize(from: objects, count: objectCapacity)
            objects.deallocate()
            objects = new
            objectCapacity *= 2
        }
        (objects + objectCount).initialize(to: Object())
        objectCount += 1
    }

    private func growSteps() {
        let capacity = stepCapacity * 2
        stepClocks = Self.grown(stepClocks, from: stepCapacity, to: capacity)
        stepThreads = Self.grown(stepThreads, from: stepCapacity, to: capacity)
        stepKinds = Self.grown(stepKinds, from: stepCapacity, to: capacity)
        stepCapacity = capacity
    }

    private static func grown<T>(_ old: UnsafeMutablePointer<T>, from: Int, to: Int) -> UnsafeMutablePointer<T> {
        let new = UnsafeMutablePointer<T>.allocate(capacity: to)
        new.moveInitialize(from: old, count: from)
        old.deallocate()
        return new
    }
}
