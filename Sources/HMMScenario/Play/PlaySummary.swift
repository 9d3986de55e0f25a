/// What playing scenarios cost, as the closing lines tell it.
package struct PlaySummary: Hashable, Sendable {
    package var scenarios = 0
    package var statements = 0
    package var expectations = 0
    package var failedExpectations = 0
    package var cpuFaults: UInt64 = 0
    package var deviceFaults: UInt64 = 0
    package var invalidations: UInt64 = 0
    /// Rounds of a device fault that an invalidation made worthless.
    package var retries: UInt64 = 0
    /// Entries that mirrors stored.
    package var entriesMirrored: UInt64 = 0
    /// Pages moved to device memory, and back.
    package var pagesToDevice: UInt64 = 0
    package var pagesToSystem: UInt64 = 0
    /// Bytes that those moves copied.
    package var bytesCopied: UInt64 = 0
    /// The most that the page tables of the processes took.
    package var tableBytes: UInt64 = 0
    /// The most that the page tables of the mirrors took.
    package var mirrorBytes: UInt64 = 0
    package var nanoseconds: UInt64 = 0

    package init() {}

    /// Counts add up; of memory the largest scenario counts, because each has a machine of its own.
    package mutating func add(_ other: PlaySummary) {
        scenarios += other.scenarios
        statements += other.statements
        expectations += other.expectations
        failedExpectations += other.failedExpectations
        cpuFaults += other.cpuFaults
        deviceFaults += other.deviceFaults
        invalidations += other.invalidations
        retries += other.retries
        entriesMirrored += other.entriesMirrored
        pagesToDevice += other.pagesToDevice
        pagesToSystem += other.pagesToSystem
        bytesCopied += other.bytesCopied
        tableBytes = max(tableBytes, other.tableBytes)
        mirrorBytes = max(mirrorBytes, other.mirrorBytes)
        nanoseconds += other.nanoseconds
    }
}
