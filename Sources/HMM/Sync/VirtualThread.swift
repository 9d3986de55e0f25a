import CLinux

/// A thread that a `Scheduler` runs: a stack of its own and the record of what it holds.
///
/// It never moves to another thread of the system. A finished or abandoned one can be started again on the same stack.
/// A thread that is abandoned in the middle is not unwound: what its stack refers to leaks, so a scheduler that runs
/// many schedules lets threads finish where it can.
public final class VirtualThread {
    /// Enough for the deepest path of the core in a debug build; only pages that are touched cost memory.
    public static let stackBytes = 512 << 10

    /// The number by which the scheduler knows the thread.
    public let index: Int
    /// For people and traces.
    public let name: String
    private unowned(unsafe) let scheduler: Scheduler
    private let record: UnsafeMutablePointer<hmm_thread>
    private var body: (() -> Void)?
    /// Whether the body has returned.
    public private(set) var isFinished = false

    /// A thread of `scheduler`, which outlives it.
    public init(index: Int, name: String, scheduler: Scheduler) {
        self.index = index
        self.name = name
        self.scheduler = scheduler
        record = .allocate(capacity: 1)
        record.initialize(to: hmm_thread())
        record.pointee.scheduler = Unmanaged.passUnretained(scheduler).toOpaque()
        record.pointee.waiter.thread = index
        let error = hmm_context_create(&record.pointee.context, Self.stackBytes)
        precondition(error == 0, "no memory for the stack of a virtual thread: errno \(error)")
    }

    deinit {
        hmm_context_destroy(&record.pointee.context)
        record.deallocate()
    }

    /// Makes the next switch to the thread run `body` from its beginning.
    public func start(_ body: @escaping () -> Void) {
        self.body = body
        isFinished = false
        hmm_thread_reset(record)
        hmm_context_prepare(
            &record.pointee.context,
            { argument in
                guard let argument else { return }
                Unmanaged<VirtualThread>.fromOpaque(argument)._withUnsafeGuaranteedRef { $0.run() }
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    /// Leaves the thread of the system for this thread; returns when some thread calls `leave`.
    public func enter() { hmm_thread_switch(hmm_thread_home(), record) }

    /// Goes back to the thread of the system. Called by the running virtual thread.
    public func leave() { hmm_thread_switch(record, hmm_thread_home()) }

    /// Goes on with `other`. Called by the running virtual thread; returns when it is switched to again.
    @inline(__always)
    public func yield(to other: VirtualThread) { hmm_thread_switch(record, other.record) }

    /// The number of locks the thread holds.
    public var heldLockCount: Int { Int(record.pointee.held_total) }

    private func run() {
        callBody()
        isFinished = true
        scheduler.finished(index)
        preconditionFailure("a scheduler went on with a finished thread")
    }

    /// Apart from `run`, so that nothing of the body is left on the stack at the last switch away.
    @inline(never)
    private func callBody() {
        let body = body
        self.body = nil
        body?()
    }
}
