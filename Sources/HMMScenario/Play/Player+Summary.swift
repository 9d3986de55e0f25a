import HMM

extension PlaySummary {
    /// What the machine has counted so far.
    package mutating func noteCounts(of machine: Machine) {
        let statistics = machine.statistics
        cpuFaults = statistics.cpuFaults.count
        deviceFaults = statistics.deviceFaults.count
        invalidations = statistics.invalidations.count
        retries = statistics.retries.count
        entriesMirrored = statistics.mirrorEntries.count
        pagesToDevice = statistics.pagesToDevice.count
        pagesToSystem = statistics.pagesToSystem.count
        bytesCopied = statistics.bytesCopied.count
    }

    /// What the statements came to.
    package mutating func note(_ statements: [StatementOutcome]) {
        scenarios = 1
        self.statements = statements.count
        expectations = statements.reduce(0) { $0 + $1.statement.expectations.count }
        failedExpectations = statements.reduce(0) { $0 + $1.failedExpectations.count }
    }
}

extension Player {
    /// Memory is largest somewhere in the middle: this looks after every step.
    func noteMemory(_ summary: inout PlaySummary) {
        let tableBytes = UInt64(machine.tables.usedTables * Geometry.pageSizeBytes)
        summary.tableBytes = max(summary.tableBytes, tableBytes)
        let mirrorBytes = UInt64(devices.openMirrors.reduce(0) { $0 + $1.tableBytes })
        summary.mirrorBytes = max(summary.mirrorBytes, mirrorBytes)
    }
}
