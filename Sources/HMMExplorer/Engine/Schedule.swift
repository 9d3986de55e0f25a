/// Which thread goes on at which step, written as the places where it is not the obvious one.
///
/// The obvious thread is the one that ran last, if it can go on, and else the one with the lowest number. So a schedule
/// without detours runs each thread as far as it comes, and the length of the list says how much it takes to get into
/// trouble.
public struct Schedule: Hashable, Sendable {
    public struct Detour: Hashable, Sendable {
        /// Counted from the first step of the schedule at which more than one thread was there.
        public var step: Int
        public var thread: Int

        public init(step: Int, thread: Int) {
            self.step = step
            self.thread = thread
        }
    }

    public var detours: [Detour]

    public init(detours: [Detour] = []) { self.detours = detours }

    /// The thread that goes on when nothing says otherwise.
    @inline(__always)
    static func obvious(enabled: ThreadSet, current: Int) -> Int { enabled.has(current) ? current : enabled.first }
}
