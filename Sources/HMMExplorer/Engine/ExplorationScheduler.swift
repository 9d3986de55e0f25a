import HMM

/// Runs one schedule after the other: the threads of a program, one at a time, in the order that a strategy chooses.
///
/// A step reaches from one scheduling point of a thread to its next one. All threads stand at a point when a choice is
/// made, so for each of them the next operation is known before it is made. A thread that is about to take a lock that
/// another one holds cannot be chosen: it would only sleep, and waking it is one more way to say the same order. While
/// there is a single thread nothing is chosen and nothing noted.
///
/// What changes with every step is not checked for exclusive access (`@exclusivity(unchecked)`): one thread has it.
///
/// Nothing here is locked: a scheduler, its strategy and what they note belong to one thread of the system.
package final class ExplorationScheduler: Scheduler, @unchecked Sendable {
    package static let threadLimit = 16
    /// Of a thread that nobody keeps company, in nanoseconds: a quarter of an hour.
    private static let longestSleep: UInt64 = 1 << 40

    /// What a thread is about to do.
    struct Pending {
        var kind: StepKind
        var mark: Int16
        var object: Int32
    }

    /// The state of the schedule under way, behind a pointer: it changes with every step, and a thread that is switched
    /// away in the middle of an access to a stored property would make that access last.
    struct Progress {
        var current = 0
        var threadCount = 0
        /// Not finished.
        var unfinished: ThreadSet = 0
        /// Not finished and not asleep.
        var runnable: ThreadSet = 0
        /// Gave way again and again; they go on when somebody else made a step that matters to them.
        var gaveWay: ThreadSet = 0
        /// The thread that sleeps until all that it started have come to their end, or -1.
        var parent = -1
        var stepCount = 0
        var stepLimit = 0
        /// Locks that are held, as far as their taking was a step.
        var heldLocks = 0
        /// A step changed something since the last look.
        var isChanged = true
        var time: UInt64 = 0
        var random: UInt64 = 0
        var isObserving = false
        /// A finding was made, or the order is not to be explored: no more choices, threads just run to their end.
        var isDraining = false
        /// Past the limit there was a choice, which nobody made.
        var wasCurtailed = false
    }

    let progress: UnsafeMutablePointer<Progress>
    let objects: UnsafeMutablePointer<ObjectTable>
    let pending: UnsafeMutablePointer<Pending>
    /// By thread: the last two steps at which it gave way.
    let rounds: UnsafeMutablePointer<Round>
    @exclusivity(unchecked) private(set) var steps: UnsafeMutablePointer<Step>
    /// By step: whether the strategy chose another thread than the obvious one.
    @exclusivity(unchecked) private var isDetour: UnsafeMutablePointer<Bool>
    @exclusivity(unchecked) private var stepCapacity = 0
    /// Invariant: `threads[i]` is initialised for i < `poolCount`.
    private let threads: UnsafeMutablePointer<Unmanaged<VirtualThread>>
    private var poolCount = 0
    private(set) var names: [String] = []
    /// Who chooses. Kept by whoever runs schedules.
    @exclusivity(unchecked) unowned(unsafe) var strategy: Strategy
    /// Looked at when no lock is held; answers what is wrong.
    @exclusivity(unchecked) var observer: (() -> ScheduleFinding?)?
    @exclusivity(unchecked) private(set) var finding: ScheduleFinding?

    init(strategy: Strategy) {
        self.strategy = strategy
        objects = .allocate(capacity: 1)
        objects.initialize(to: ObjectTable())
        progress = .allocate(capacity: 1)
        progress.initialize(to: Progress())
        pending = .allocate(capacity: Self.threadLimit)
        pending.initialize(repeating: Pending(kind: .start, mark: -1, object: -1), count: Self.threadLimit)
        rounds = .allocate(capacity: Self.threadLimit)
        rounds.initialize(repeating: Round(), count: Self.threadLimit)
        threads = .allocate(capacity: Self.threadLimit)
        steps = .allocate(capacity: 0)
        isDetour = .allocate(capacity: 0)
        super.init()
    }

    deinit {
        for index in 0..<poolCount { threads[index].release() }
        threads.deallocate()
        pending.deallocate()
        rounds.deallocate()
        steps.deallocate()
        progress.deallocate()
        objects.deinitialize(count: 1)
        objects.deallocate()
        isDetour.deallocate()
    }

    // MARK: A schedule

    /// Runs `body` as the first thread, and whatever threads it makes, to the end or until none can go on.
    func run(stepLimit: Int, _ body: @escaping () -> Void) -> ScheduleEnding {
        prepare(stepLimit: stepLimit)
        spawn(name: "main", body)
        whileInstalled { threads[0]._withUnsafeGuaranteedRef { $0.enter() } }
        strategy.end(steps: progress.pointee.stepCount)
        if progress.pointee.unfinished == 0 { return .finished }
        abandon()
        return .abandoned
    }

    private func prepare(stepLimit: Int) {
        progress.pointee = Progress()
        progress.pointee.stepLimit = stepLimit
        finding = nil
        names.removeAll(keepingCapacity: true)
        objects.pointee.reset()
        // The fair part that follows the limit is as long again, and draining too.
        let capacity = stepLimit * 3 + 16
        if stepCapacity != capacity {
            steps.deallocate()
            steps = .allocate(capacity: capacity)
            isDetour.deallocate()
            isDetour = .allocate(capacity: capacity)
            stepCapacity = capacity
        }
    }

    /// The threads stay where they are, on stacks that nobody unwinds: those are not used again.
    private func abandon() {
        for index in 0..<poolCount {
            threads[index]._withUnsafeGuaranteedRef { $0.discard() }
            threads[index].release()
        }
        poolCount = 0
    }

    package override func spawn(name: String, _ body: @escaping () -> Void) {
        let index = progress.pointee.threadCount
        precondition(index < Self.threadLimit, "more than \(Self.threadLimit) threads in one schedule")
        if index == poolCount {
            threads[index] = .passRetained(VirtualThread(index: index, name: name, scheduler: self))
            poolCount += 1
        }
        threads[index]._withUnsafeGuaranteedRef { $0.start(body) }
        names.append(name)
        progress.pointee.threadCount += 1
        progress.pointee.unfinished |= .only(index)
        progress.pointee.runnable |= .only(index)
        pending[index] = Pending(kind: .start, mark: -1, object: -1)
        rounds[index] = Round()
        if index > 0 { strategy.spawned(index, by: progress.pointee.current) }
    }

    // MARK: What the core calls

    package override func schedulingPoint(_ kind: SchedulingPoint.Kind, on address: UInt) {
        let s = progress
        let current = s.pointee.current
        // Alone: nothing to choose.
        if s.pointee.unfinished == .only(current) || s.pointee.isObserving { return }
        pending[current].kind = StepKind(rawValue: kind.rawValue)!
        pending[current].object = address == 0 ? -1 : objects.pointee.id(address)
        observe()
        goOn(from: current)
    }

    package override func block(on key: UInt) {
        let current = progress.pointee.current
        progress.pointee.runnable &= ~.only(current)
        pending[current].kind = .resume
        pending[current].object = objects.pointee.id(key)
        goOn(from: current)
    }

    package override func unblock(_ index: Int) { progress.pointee.runnable |= .only(index) }

    package override func finished(_ index: Int) -> VirtualThread? {
        let s = progress
        s.pointee.unfinished &= ~.only(index)
        s.pointee.runnable &= ~.only(index)
        if s.pointee.unfinished == 0 { return nil }
        if s.pointee.parent >= 0, s.pointee.unfinished == .only(s.pointee.parent) {
            s.pointee.runnable = s.pointee.unfinished
            s.pointee.current = s.pointee.parent
        } else {
            let next = choose(index)
            if next < 0 { return nil }
            s.pointee.current = next
        }
        return threads[s.pointee.current].takeUnretainedValue()
    }

    package override func now() -> UInt64 { progress.pointee.time }

    package override func sleep(nanoseconds: UInt64) {
        // Who sleeps while nobody else can go on waits for the time alone: a sleep may last longer than it should, and
        // each of these lasts longer than all before, or a deadline would take more steps than a schedule has.
        let s = progress
        let isAlone = s.pointee.runnable == .only(s.pointee.current)
        s.pointee.time += isAlone ? max(nanoseconds, min(s.pointee.time, Self.longestSleep)) : nanoseconds
        schedulingPoint(.yield, on: 0)
    }

    package override func random() -> UInt64 { SplitMix.next(&progress.pointee.random) }

    package override func lockOrderViolation(_ violation: LockOrderViolation) {
        let what = violation.description { lockClass, address in namer?(address) ?? "a lock of class \(lockClass)" }
        var found = ScheduleFinding(kind: .lockOrder, what: what, thread: progress.pointee.current)
        found.objects = [objects.pointee.id(violation.object), objects.pointee.id(violation.heldObject)]
        find(found)
    }

    // MARK: What a program calls

    /// Runs `bodies` as threads; returns when the last of them has come to its end. The caller is alone.
    func runTogether(_ bodies: [(name: String, body: () -> Void)]) {
        let current = progress.pointee.current
        precondition(progress.pointee.unfinished == .only(current), "threads are started by a program that runs alone")
        guard !bodies.isEmpty else { return }
        for (name, body) in bodies { spawn(name: name, body) }
        progress.pointee.parent = current
        progress.pointee.runnable &= ~.only(current)
        goOn(from: current)
        progress.pointee.parent = -1
    }

    /// The running thread begins `mark`; later steps carry it.
    func mark(_ mark: Int) { pending[progress.pointee.current].mark = Int16(truncatingIfNeeded: mark) }

    /// Notes what is wrong. The first finding of a schedule counts; the threads run to their end, unexplored.
    func find(_ found: ScheduleFinding) {
        if finding == nil, !progress.pointee.isDraining {
            finding = found
            finding?.step = progress.pointee.stepCount
        }
        progress.pointee.isDraining = true
    }

    /// Findings made by looking, while nobody moves.
    func whileObserving<R>(_ body: () -> R) -> R {
        progress.pointee.isObserving = true
        defer { progress.pointee.isObserving = false }
        return body()
    }

    /// The program did the same as before; otherwise what strategies know of earlier schedules is worth nothing.
    @inline(__always)
    func expect(_ isSame: Bool) {
        if !isSame {
            find(
                ScheduleFinding(
                    kind: .nondeterminism, what: "the program did not do the same when it was run again",
                    thread: progress.pointee.current))
        }
    }

    var current: Int { progress.pointee.current }
    var stepCount: Int { progress.pointee.stepCount }
    @inline(__always) func pendingKind(of thread: Int) -> StepKind { pending[thread].kind }

    /// The schedule that ran, without the turns after the step limit or a finding, which follow by themselves.
    var schedule: Schedule {
        let detours = (0..<stepCount).filter { isDetour[$0] }
        return Schedule(detours: detours.map { .init(step: $0, thread: Int(steps[$0].thread)) })
    }
    /// Others stand for what would follow: the threads run to their end, and nothing is looked at.
    func cutShort() { progress.pointee.isDraining = true }

    /// What people call an object; set for schedules that are shown.
    var namer: ((UInt) -> String?)?
    func describe(_ object: Int32) -> String {
        guard object >= 0 else { return "nothing" }
        if let name = namer?(objects.pointee.objects[Int(object)].address) { return name }
        let isLock = (0..<stepCount).contains { steps[$0].object == object && steps[$0].kind.isOfLock }
        return isLock ? "lock \(object)" : "object \(object)"
    }

    // MARK: Choosing

    /// Lets somebody make a step; returns when that is `from`.
    @inline(__always)
    private func goOn(from: Int) {
        let next = choose(from)
        if next == from { return }
        if next < 0 { return threads[from]._withUnsafeGuaranteedRef { $0.leave() } }
        progress.pointee.current = next
        let target = threads[next]
        threads[from]._withUnsafeGuaranteedRef { me in target._withUnsafeGuaranteedRef { me.yield(to: $0) } }
    }

    /// The thread that makes the next step, which is noted; -1 if none can or the schedule is too long.
    private func choose(_ current: Int) -> Int {
        let s = progress
        var enabled = s.pointee.runnable & ~waitingForLocks
        if enabled & ~s.pointee.gaveWay != 0 { enabled &= ~s.pointee.gaveWay }
        if enabled == 0 { return deadlock() }
        let depth = s.pointee.stepCount
        let next: Int
        isDetour[depth] = false
        if s.pointee.isDraining || depth >= s.pointee.stepLimit {
            if !s.pointee.isDraining, enabled & (enabled &- 1) != 0 { s.pointee.wasCurtailed = true }
            guard let turn = nextInTurn(enabled, current) else { return -1 }
            next = turn
        } else {
            next = strategy.choose(enabled, depth: depth, self)
            let isObvious = next == Schedule.obvious(enabled: enabled, current: current)
            isDetour[depth] = !isObvious && !s.pointee.isDraining
        }
        note(next)
        return next
    }

    /// Past the limit every thread that can go on gets its turn, so that what does not end is no accident of the order.
    private func nextInTurn(_ enabled: ThreadSet, _ current: Int) -> Int? {
        let s = progress
        if s.pointee.stepCount + 1 >= stepCapacity {
            if finding == nil { finding = Livelock.finding(self) }
            return nil
        }
        if s.pointee.isDraining, s.pointee.stepCount & 63 != 0, enabled.has(current) { return current }
        let later = enabled & ~(ThreadSet.only(current) | (.only(current) &- 1))
        return later != 0 ? later.first : enabled.first
    }

    // MARK: Looking

    @inline(__always)
    private func observe() {
        let s = progress
        guard s.pointee.heldLocks == 0, s.pointee.isChanged, let observer, !s.pointee.isDraining,
            s.pointee.stepCount >= strategy.sharedPrefix
        else { return }
        s.pointee.isChanged = false
        if let found = whileObserving(observer) { find(found) }
    }

    private func deadlock() -> Int {
        if finding == nil { finding = Deadlock.finding(self) }
        return -1
    }
}

/// How a schedule ended.
enum ScheduleEnding: Equatable {
    /// All threads came to their end.
    case finished
    /// Threads were left where they stood: none could go on, or there was no end to it. What they hold is lost.
    case abandoned
}
