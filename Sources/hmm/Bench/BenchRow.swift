/// What a row must reach. A row is met when everything that is set here holds.
struct BenchGoal: Sendable {
    /// Largest and smallest value of ours.
    var atMost: Double?
    var atLeast: Double?
    /// Largest ratio of ours to the reference.
    var ratioAtMost: Double?

    /// Nil: it asks for a ratio, and there is no reference.
    func isMet(ours: Double, ratio: Double?) -> Bool? {
        if let atMost, ours > atMost { return false }
        if let atLeast, ours < atLeast { return false }
        guard let ratioAtMost else { return true }
        return ratio.map { $0 <= ratioAtMost }
    }

    /// For a person and for programs: `<= 1 ns/page, ratio <= 0.033`.
    func description(unit: String) -> String {
        var parts: [String] = []
        if let atMost { parts.append("<= \(BenchNumber.text(atMost)) \(unit)") }
        if let atLeast { parts.append(">= \(BenchNumber.text(atLeast)) \(unit)") }
        if let ratioAtMost { parts.append("ratio <= \(BenchNumber.text(ratioAtMost))") }
        return parts.joined(separator: ", ")
    }
}

/// One line of the table: a result, or why there is none.
struct BenchRow: Sendable {
    let name: String
    let unit: String
    let referenceName: String
    let goal: BenchGoal?
    /// Nil when it could not be measured.
    var ours: Double?
    var reference: Double?
    /// Why a number is missing, or what else a reader should know.
    var note: String?

    /// Ours divided by the reference, whatever the unit.
    var ratio: Double? {
        guard let ours, let reference, reference > 0 else { return nil }
        return ours / reference
    }

    /// Nil when there is no goal, or nothing to compare with it.
    var isMet: Bool? {
        guard let goal, let ours else { return nil }
        return goal.isMet(ours: ours, ratio: ratio)
    }

    var goalText: String? { goal.map { $0.description(unit: unit) } }
}

/// Numbers as text, without Foundation.
enum BenchNumber {
    /// Three significant digits, or all digits before the point.
    static func text(_ value: Double) -> String {
        var decimals = 0
        var bound = 100.0
        while abs(value) < bound, decimals < 4, value != 0 {
            decimals += 1
            bound /= 10
        }
        return fixed(value, decimals)
    }

    /// Decimal, with trailing zeros removed.
    static func fixed(_ value: Double, _ decimals: Int) -> String {
        var scale = 1.0
        for _ in 0..<decimals { scale *= 10 }
        let scaled = (abs(value) * scale).rounded()
        guard scaled < 9e15 else { return "\(value)" }
        let whole = Int(scaled / scale)
        let rest = Int(scaled) - whole * Int(scale)
        var text = "\(whole)"
        if rest > 0 {
            let digits = String(rest)
            text += "." + String(repeating: "0", count: decimals - digits.count) + digits
            while text.hasSuffix("0") { text.removeLast() }
        }
        return value < 0 && scaled > 0 ? "-" + text : text
    }
}
