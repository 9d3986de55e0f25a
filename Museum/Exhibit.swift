import HMM
import HMMExplorer

/// A real bug of HMM, of its drivers or of its relatives, as a program for the explorer.
///
/// Each exhibit re-implements one operation or one driver as history had it; everything else is the core that ships.
/// What it is found by is never a flag that the wrong version sets, but a value that was read, a count, an entry that
/// outlives its page, or threads that get nowhere.
public struct Exhibit: Sendable {
    public enum Version: String, Sendable, CaseIterable {
        /// With the operation as history had it.
        case asItWas = "as it was"
        /// With the core's own operation, or the driver as it was mended.
        case mended
    }

    public let name: String
    /// The commit, the CVE or the mail.
    public let source: String
    /// What was wrong, the interleaving that shows it, and the fix.
    public let story: String
    /// What the explorer must find.
    public let kind: FindingKind
    /// Finds it within `Exhibit.schedules`.
    public let strategy: ExplorationStrategy
    /// Whether all schedules of the mended version can be run.
    public let isExhaustive: Bool
    /// Longer schedules are taken for livelocks, if they do not end when everybody has a turn.
    public let stepLimit: Int
    public let program: @Sendable (_ scene: Scene, _ version: Version) throws -> Void

    init(
        _ name: String, source: String, story: String, kind: FindingKind, strategy: ExplorationStrategy = .exhaustive,
        isExhaustive: Bool = false, stepLimit: Int = 4_000,
        program: @Sendable @escaping (_ scene: Scene, _ version: Version) throws -> Void
    ) {
        self.name = name
        self.source = source
        self.story = story
        self.kind = kind
        self.strategy = strategy
        self.isExhaustive = isExhaustive
        self.stepLimit = stepLimit
        self.program = program
    }
}

extension Exhibit {
    /// Within so many schedules every exhibit is found.
    public static let schedules = 10_000

    /// How the exhibit is to be explored: on a small machine that answers as it should, not as 6.12 does.
    public var options: ExplorationOptions {
        var options = ExplorationOptions()
        options.strategy = strategy
        options.schedules = Self.schedules
        options.stepLimit = stepLimit
        options.machine = .small
        options.machine.profile = .next
        return options
    }

    /// Explores one version.
    public func explore(_ version: Version, _ options: ExplorationOptions) -> Exploration {
        HMMExplorer.explore(options) { scene in try program(scene, version) }
    }
}
