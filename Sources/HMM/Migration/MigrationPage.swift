/// What a migration knows of one page.
///
/// The word is that of a range fault's result, with bits of its own where that has none: the walk writes both.
/// ```
///   63    62    61   60    56 55            48  47      46      45     44   43     40 39                   0
/// ┌─────┬─────┬─────┬────────┬────────────────┬───────┬────────┬──────┬────┬─────────┬───────────────────────┐
/// │valid│write│error│ order  │ driver's marks │migrate│compound│shared│held│    0    │         frame         │
/// └─────┴─────┴─────┴────────┴────────────────┴───────┴────────┴──────┴────┴─────────┴───────────────────────┘
/// ```
public struct MigrationPage: Hashable, Sendable {
    public let rawValue: UInt64
    init(rawValue: UInt64) { self.rawValue = rawValue }

    /// After setup: the page may be moved. After commit: it moved (INV-MG-4).
    public var isMigrating: Bool { rawValue & MigrationWord.migrate != 0 }
    /// The first page of 512 that move as one; the words of the others say nothing.
    public var isUnit: Bool { rawValue & MigrationWord.compound != 0 }
    /// There is a frame to copy from. A page that migrates without one is a hole, or nothing but zeros.
    public var hasFrame: Bool { rawValue & HMMPageWord.valid != 0 }
    /// The frame, if there is one.
    public var frame: FrameNumber { FrameNumber(truncating: rawValue & HMMPageWord.frameMask) }
    /// The CPU could write through its entry.
    public var isWritable: Bool { rawValue & HMMPageWord.write != 0 }
    /// What a range fault would have said of a page that does not migrate.
    public var result: HMMPageResult { HMMPageResult(rawValue: rawValue) }
}

package enum MigrationWord {
    package static let migrate: UInt64 = 1 << 47
    package static let compound: UInt64 = 1 << 46
    /// Other entries than that of the walk were replaced too: the reverse map leads back to them.
    package static let shared: UInt64 = 1 << 45
    /// The folio is locked and referenced by this migration.
    package static let held: UInt64 = 1 << 44
    package static let flags: UInt64 = migrate | compound | shared | held

    @inline(__always)
    package static func frame(_ word: UInt64) -> FrameNumber { FrameNumber(truncating: word & HMMPageWord.frameMask) }
}
