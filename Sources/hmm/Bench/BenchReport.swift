/// The rows of one run, and how they are printed.
struct BenchReport: Sendable {
    var rows: [BenchRow] = []
    /// Of everything that was read back while measuring; the same on every run with the same options.
    var checksum: UInt64 = 0

    /// Every row that was asked for has a number.
    var isComplete: Bool { rows.allSatisfy { $0.ours != nil } }

    // MARK: For programs

    var json: String {
        let rows = rows.map { row in
            let fields: [(String, String)] = [
                ("name", Self.quoted(row.name)),
                ("unit", Self.quoted(row.unit)),
                ("ours", Self.number(row.ours)),
                ("reference", Self.number(row.reference)),
                ("referenceName", Self.quoted(row.referenceName)),
                ("ratio", Self.number(row.ratio)),
                ("goal", row.goalText.map(Self.quoted) ?? "null"),
                ("met", row.isMet.map { "\($0)" } ?? "null"),
            ]
            return "    {" + fields.map { "\"\($0.0)\": \($0.1)" }.joined(separator: ", ") + "}"
        }
        return "{\"rows\": [\n" + rows.joined(separator: ",\n") + "\n]}"
    }

    private static func number(_ value: Double?) -> String {
        guard let value, value.isFinite else { return "null" }
        return BenchNumber.fixed(value, 4)
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }

    // MARK: For a person

    var table: String {
        let heads = ["operation", "ours", "reference", "", "ratio", "goal", ""]
        var lines = [heads]
        for row in rows {
            lines.append([
                row.name,
                row.ours.map { "\(BenchNumber.text($0)) \(row.unit)" } ?? "-",
                row.reference.map { "\(BenchNumber.text($0)) \(row.unit)" } ?? "-",
                row.referenceName,
                row.ratio.map(BenchNumber.text) ?? "-",
                row.goalText ?? "-",
                row.isMet.map { $0 ? "met" : "NOT MET" } ?? "",
            ])
        }
        let isNumeric = [false, true, true, false, true, false, false]
        let widths = heads.indices.map { column in lines.map { $0[column].count }.max() ?? 0 }
        var text = lines.map { line in
            heads.indices.map { column in
                Self.padded(line[column], to: widths[column], leading: isNumeric[column])
            }.joined(separator: "  ").trimmingTrailingSpaces
        }.joined(separator: "\n")
        for row in rows {
            if let note = row.note { text += "\n\(row.name): \(note)" }
        }
        return text + "\nchecksum \(String(checksum, radix: 16))"
    }

    private static func padded(_ text: String, to width: Int, leading: Bool) -> String {
        let spaces = String(repeating: " ", count: max(0, width - text.count))
        return leading ? spaces + text : text + spaces
    }
}

extension String {
    fileprivate var trimmingTrailingSpaces: String {
        var text = Substring(self)
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}
