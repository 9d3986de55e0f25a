import HMMScenario

// What a process tells the player of its cost.

extension PlaySummary {
    private static var counted: [WritableKeyPath<PlaySummary, UInt64>] {
        [
            \.cpuFaults, \.deviceFaults, \.invalidations, \.retries, \.entriesMirrored, \.pagesToDevice,
            \.pagesToSystem, \.bytesCopied,
        ]
    }

    /// What was counted since `earlier`.
    func countsText(since earlier: PlaySummary) -> String {
        Self.counted.map { String(self[keyPath: $0] - earlier[keyPath: $0]) }.joined(separator: " ")
    }

    mutating func addCounts(text: String) {
        for (path, word) in zip(Self.counted, text.split(separator: " ")) {
            self[keyPath: path] += UInt64(word) ?? 0
        }
    }
}
