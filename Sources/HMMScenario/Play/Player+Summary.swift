import HMM

extension Player {
    /// What the machine has counted so far.
    func noteCounts(_ summary: inout PlaySummary) {
        let statistics = machine.statistics
        summary.cpuFaults = statistics.cpuFaults.count
        summary.deviceFaults = statistics.deviceFaults.count
        summary.invalidations = statistics.invalidations.count
        summary.retries = statistics.retries.count
        summary.entriesMirrored = statistics.mirrorEntries.count
        summary.pagesToDevice = statistics.pagesToDevice.count
        summary.pagesToSystem = statistics.pagesToSystem.count
        summary.bytesCopied = statistics.bytesCopied.count
    }

    /// Memory is largest somewhere in the middle: this looks after every step.
    func noteMemory(_ summary: inout PlaySummary) {
        let tableBytes = UInt64(machine.tables.usedTables * Geometry.pageSizeBytes)
        summary.tableBytes = max(summary.tableBytes, tableBytes)
        let mirrorBytes = UInt64(devices.openMirrors.reduce(0) { $0 + $1.tableBytes })
        summary.mirrorBytes = max(summary.mirrorBytes, mirrorBytes)
    }
}
