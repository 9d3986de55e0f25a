import HMM

/// A process of a scenario: an index into `Scenario.processes`. The first is `main`.
package struct ProcessID: Hashable, Sendable {
    package var index: Int
    package init(index: Int) { self.index = index }
    package static let main = ProcessID(index: 0)
}

/// A device of a scenario: an index into `Scenario.devices`. The first four are dev0 … dev3.
package struct DeviceID: Hashable, Sendable {
    package var index: Int
    package init(index: Int) { self.index = index }
}

/// A region of a scenario: an index into `Scenario.regions`.
package struct RegionID: Hashable, Sendable {
    package var index: Int
}

/// One statement: who does what, and what the result should be.
package struct Statement: Sendable {
    /// The line of the statement within its scenario, counted from 1 after the `==` line, comments and blank lines
    /// included. Result lines start with it.
    package var line: Int
    package var position: SourcePosition
    package var process: ProcessID
    /// The device of a device statement.
    package var device: DeviceID?
    package var verb: Verb
    /// One value for each parameter of the verb.
    package var operands: [Operand]
    /// The `expect` lines that follow it.
    package var expectations: [Expectation] = []
}

/// Statements that run one after another while the other groups of the race run.
package struct RaceGroup: Sendable {
    package var name: String
    package var position: SourcePosition
    package var statements: [Statement] = []
}

/// Groups that run at the same time.
package struct Race: Sendable {
    package var position: SourcePosition
    package var groups: [RaceGroup] = []

    package var statements: [Statement] { groups.flatMap(\.statements) }
}

package enum Step: Sendable {
    case statement(Statement)
    case race(Race)

    /// The statements of the step in the order of the text.
    package var statements: [Statement] {
        switch self {
        case .statement(let statement): [statement]
        case .race(let race): race.statements
        }
    }
}

/// A scenario that was understood: every name is resolved, every range lies in its region.
package struct Scenario: Sendable {
    package struct Region: Hashable, Sendable {
        package var name: String
        package var pageCount: Int
        /// Where `map` puts it.
        package var start: PageNumber
    }

    package struct Device: Hashable, Sendable {
        package var name: String
        package var kind: DeviceKindName
        /// Nil: the devices that are always there, whose memory grows as it is needed.
        package var memoryBytes: UInt64?
    }

    package var name: String
    package var position: SourcePosition
    package var steps: [Step] = []
    package var regions: [Region] = []
    package var processes: [String] = ["main"]
    package var devices: [Device] = Scenario.builtInDevices

    package var statements: [Statement] { steps.flatMap(\.statements) }

    package static let builtInDevices = [
        Device(name: "dev0", kind: .private), Device(name: "dev1", kind: .private),
        Device(name: "dev2", kind: .coherent), Device(name: "dev3", kind: .coherent),
    ]
}
