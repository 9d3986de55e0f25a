extension Scenario {
    /// The statement as a line of the language, without its expectations.
    package func text(of statement: Statement) -> String {
        var words: [String] = []
        if statement.process != .main { words.append(processes[statement.process.index] + ":") }
        switch statement.verb.actor {
        case .process: break
        case .cpu: words.append("cpu")
        case .device: if let device = statement.device { words.append(devices[device.index].name) }
        }
        words.append(statement.verb.word)
        words += statement.operands.map { $0.text(in: self) }.filter { !$0.isEmpty }
        return words.joined(separator: " ")
    }

    /// The whole scenario as text that reads back as the same one. Comments are not kept.
    package var text: String {
        var lines = ["== \(name)"]
        func add(_ statement: Statement, indent: String) {
            lines.append(indent + text(of: statement))
            lines += statement.expectations.map { indent + "expect " + $0.text }
        }
        for step in steps {
            switch step {
            case .statement(let statement): add(statement, indent: "")
            case .race(let race):
                lines.append("race")
                for group in race.groups {
                    lines.append("thread \(group.name)")
                    for statement in group.statements { add(statement, indent: "  ") }
                }
                lines.append("end")
            }
        }
        return lines.map { $0 + "\n" }.joined()
    }
}
