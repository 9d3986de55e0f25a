/// What can be wrong with a schedule.
public enum FindingKind: String, Sendable, CaseIterable, Codable {
    /// A value was read that no legal order of the writes allows.
    case value
    /// A mirror or a device TLB says more than the CPU's page table.
    case staleMirror = "stale-mirror"
    /// `checkInvariants()` found something.
    case invariant
    /// Memory was used that belongs to somebody else by now.
    case useAfterFree = "use-after-free"
    case deadlock
    case livelock
    case lockOrder = "lock-order"
    /// Something was left over at the end.
    case leftover
    /// An `expect` of the scenario failed.
    case expectation
    /// A check of the program failed, or it threw.
    case assertion
    /// The program did something else when it was run again.
    case nondeterminism
}

/// Something that is wrong, found in one schedule.
package struct ScheduleFinding: Sendable {
    package var kind: FindingKind
    package var what: String
    /// Who found it, or -1.
    package var thread: Int
    /// The number of steps made before; more than there are for what has no step of its own.
    package var step = Int.max
    /// Objects that it is about, beside those that several threads touch.
    var objects: [Int32] = []
    /// Of a livelock: the steps that repeat, which are the last ones, in words.
    var cycle: [String] = []

    package init(kind: FindingKind, what: String, thread: Int = -1) {
        self.kind = kind
        self.what = what
        self.thread = thread
    }
}
