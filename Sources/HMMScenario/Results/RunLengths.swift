/// A sequence kept as runs of equal neighbours.
package struct RunLengths<Value: Hashable & Sendable>: Hashable, Sendable {
    package struct Run: Hashable, Sendable {
        package var value: Value
        package var count: Int
    }

    package private(set) var runs: [Run] = []

    package init() {}

    package init(_ values: some Sequence<Value>) {
        for value in values { append(value) }
    }

    package mutating func append(_ value: Value, count: Int = 1) {
        guard count > 0 else { return }
        if let last = runs.last, last.value == value {
            runs[runs.count - 1].count += count
        } else {
            runs.append(Run(value: value, count: count))
        }
    }

    package var count: Int { runs.reduce(0) { $0 + $1.count } }

    /// The value at `index`, counted over all runs.
    package subscript(index: Int) -> Value {
        var left = index
        for run in runs {
            if left < run.count { return run.value }
            left -= run.count
        }
        preconditionFailure("index \(index) of \(count) values")
    }

    package func contains(where condition: (Value) -> Bool) -> Bool { runs.contains { condition($0.value) } }

    /// `V*COUNT`, or `V` alone, with blanks between.
    func text(_ value: (Value) -> String) -> String {
        runs.map { $0.count == 1 ? value($0.value) : "\(value($0.value))*\($0.count)" }.joined(separator: " ")
    }
}
