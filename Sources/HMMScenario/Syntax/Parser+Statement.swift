import HMM

extension Parser {
    /// `[PROCESS:] VERB …`, `[PROCESS:] cpu VERB …` or `[PROCESS:] DEVICE VERB …`
    mutating func readStatement(_ line: SourceLine, lineInScenario: Int) throws(Diagnostic) -> Statement {
        var rest = ArraySlice(line.tokens)
        let position = line.tokens[0].position
        var processName = "main"
        if let first = rest.first, first.text.hasSuffix(":") {
            processName = String(first.text.dropLast())
            rest.removeFirst()
        }
        let process = try process(named: processName, at: position)
        guard let first = rest.first else {
            throw Diagnostic(line.end, "nothing behind '\(processName):'", expected: "a statement")
        }
        let (verb, device) = try readVerb(&rest, end: line.end)
        if verb.isOutsideRaces, processName != "main" {
            throw Diagnostic(first.position, "'\(verb.word)' in a process", expected: "it without a process name")
        }
        let operands = try readOperands(of: verb, &rest, end: line.end)
        if verb.endsProcess { names.exit(processName) }
        return Statement(
            line: lineInScenario, position: position, process: process, device: device, verb: verb,
            operands: operands)
    }

    private func process(named name: String, at position: SourcePosition) throws(Diagnostic) -> ProcessID {
        switch names.process(named: name) {
        case .found(let process): return process
        case .unknown:
            throw Diagnostic(
                position, "unknown process '\(name)'", expected: "'main' or the name of a 'fork' before it")
        case .madeByOtherGroup:
            throw Diagnostic(
                position, "process '\(name)' is forked by another thread of this race",
                expected: "a process from before the race, or one that this thread forked")
        case .exited:
            throw Diagnostic(position, "process '\(name)' has exited", expected: "a process that runs")
        }
    }

    private func readVerb(
        _ rest: inout ArraySlice<Token>, end: SourcePosition
    ) throws(Diagnostic) -> (Verb, DeviceID?) {
        let first = rest.removeFirst()
        if first.text == "cpu" {
            return (try readSecondWord(&rest, of: .cpu, after: "cpu", end: end), nil)
        }
        if let device = names.device(named: first.text) {
            return (try readSecondWord(&rest, of: .device, after: first.text, end: end), device)
        }
        if let verb = Verb.named(first.text, of: .process) { return (verb, nil) }
        if let second = rest.first, Verb.named(second.text, of: .device) != nil {
            throw Diagnostic(
                first.position, "unknown device '\(first.text)'",
                expected: "dev0 … dev3, or the name of a 'device' before it")
        }
        let words = Verb.words(of: .process) + ["cpu", "a device", "expect", "race"]
        throw Diagnostic(first.position, "unknown statement '\(first.text)'", expected: alternatives(words))
    }

    private func readSecondWord(
        _ rest: inout ArraySlice<Token>, of actor: Verb.Actor, after actorWord: String, end: SourcePosition
    ) throws(Diagnostic) -> Verb {
        let expected = alternatives(Verb.words(of: actor))
        guard let word = rest.popFirst() else {
            throw Diagnostic(end, "nothing behind '\(actorWord)'", expected: expected)
        }
        guard let verb = Verb.named(word.text, of: actor) else {
            throw Diagnostic(word.position, "'\(actorWord)' cannot '\(word.text)'", expected: expected)
        }
        return verb
    }

    private mutating func readOperands(
        of verb: Verb, _ rest: inout ArraySlice<Token>, end: SourcePosition
    ) throws(Diagnostic) -> [Operand] {
        var operands: [Operand] = []
        for parameter in verb.parameters {
            if parameter == .mapOptions {
                operands.append(.mapOptions(try readMapOptions(&rest)))
                continue
            }
            guard let token = rest.popFirst() else {
                throw Diagnostic(
                    end, "\(parameter.usage) of '\(verb.usage)' is missing", expected: parameter.expectation)
            }
            operands.append(try readOperand(parameter, token))
        }
        if let extra = rest.first {
            throw Diagnostic(extra.position, "'\(extra.text)' is too much", expected: "the end of '\(verb.usage)'")
        }
        try complete(verb, operands, at: end)
        return operands
    }

    /// What only all operands together say: the size of a new region, the memory of a new device.
    private mutating func complete(
        _ verb: Verb, _ operands: [Operand], at end: SourcePosition
    ) throws(Diagnostic) {
        switch verb.parameters.first {
        case .newRegion:
            guard case .newRegion(let region) = operands[0], case .pages(let count) = operands[1],
                case .mapOptions(let options) = operands[3]
            else { return }
            scenario.regions[region.index].pageCount = count
            guard let slot = names.takeSlots(forPages: count) else {
                throw Diagnostic(end, "no room for another region", expected: "fewer regions and moves")
            }
            scenario.regions[region.index].start = Layout.start(ofSlot: slot)
            try check(options, pages: count, at: end)
        case .newDevice:
            guard case .device(let device) = operands[0], case .deviceKind(let kind) = operands[1],
                case .size(let bytes) = operands[2]
            else { return }
            scenario.devices[device.index].kind = kind
            scenario.devices[device.index].memoryBytes = bytes
        default: break
        }
    }

    private func check(_ options: MapOptions, pages: Int, at end: SourcePosition) throws(Diagnostic) {
        guard options.contains(.hugetlb) else { return }
        if options.contains(.file) || options.contains(.hugepage) {
            throw Diagnostic(end, "hugetlb memory with 'file' or 'hugepage'", expected: "'hugetlb' or 'shared hugetlb'")
        }
        if pages % Geometry.entriesPerTable != 0 {
            throw Diagnostic(
                end, "\(pages) pages of hugetlb memory", expected: "a multiple of \(Geometry.entriesPerTable) pages")
        }
    }
}
