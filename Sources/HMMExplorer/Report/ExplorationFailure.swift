/// A schedule that goes wrong, as small as it could be made.
///
/// Its description shows the schedule, one column a thread: a test that throws it says all there is to say.
public struct ExplorationFailure: Error, Sendable, CustomStringConvertible {
    public var kind: FindingKind
    public var what: String
    public var schedule: Schedule
    /// Reproduces the failure, in any process that explores the same program.
    public var token: ReplayToken
    /// The number of schedules that were run until the first one went wrong, that one included.
    public var schedules: Int
    /// How often a thread was stopped that could have gone on.
    public var preemptions: Int
    /// The steps up to the finding.
    public var steps: [Step]
    /// In a deadlock, the steps that the threads wait to make.
    public var waiting: [Step]
    public var threads: [String]
    /// By object number: what people call it.
    public var objects: [String]
    /// By the number of a mark, what it stands for: see `Scene.mark`.
    public var marks: [String]
    /// Who found it, or -1.
    public var finder: Int
    /// Objects that it is about, beside those that several threads touch.
    var concerns: [Int32]
    /// How many of the last steps repeat for ever: in a livelock.
    var repeating: Int

    public var description: String { ColumnText.text(of: ScheduleColumns(self), self) }
}
