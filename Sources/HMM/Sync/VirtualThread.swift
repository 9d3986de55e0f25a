import CLinux

/// A thread that a `Scheduler` runs: a stack of its own and the record of what it holds.
///
/// It never moves to another thread of the system. A finished or abandoned one can be started again on the same stack,
/// which costs no call of the system. A thread that finishes leaves nothing on its stack.
///
/// A thread that is abandoned in the middle is not unwound: what its stack refers to leaks, this object too if the
/// scheduler's frames are among it. So a scheduler that runs many schedules lets threads finish where it can, and calls
/// `discard` on each when the run is over: that gives the stack itself back in any case.
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
    }

    deinit {
        hmm_context_destroy(&record.pointee.context)
        record.deallocate()
    }

    /// Makes the next switch to the thread run `body` from its beginning. Takes a stack if the thread has none yet.
    public func start(_ body: @escaping () -> Void) {
        self.body = body
        isFinished = false
        hmm_thread_reset(record)
        if record.pointee.context.stack == nil {
            let error = hmm_context_create(&record.pointee.context, Self.stackBytes)
            precondition(error == 0, "no memory for the stack of a virtual thread: errno \(error)")
        }
        hmm_thread_prepare(
            record,
            { argument in
                guard let argument else { return nil }
                return Unmanaged<VirtualThread>.fromOpaque(argument)._withUnsafeGuaranteedRef { $0.run() }
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    /// Gives the stack back, and forgets a body that has not begun. Called from outside the thread, finished or not; it
    /// may be started again.
    public func discard() {
        precondition(hmm_thread_current_virtual() != record, "a thread needs its own stack")
        body = nil
        hmm_context_destroy(&record.pointee.context)
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

    /// Runs the body and answers who goes on. It returns, as every frame of the thread does, and the last switch is
    /// made below Swift: a frame that is left for good would never release what it holds.
    private func run() -> UnsafeMutablePointer<hmm_thread>? {
        let body = body
        self.body = nil
        body?()
        isFinished = true
        return scheduler.finished(index)?.record
    }
}
