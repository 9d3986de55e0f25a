import HMM

extension Parser {
    /// Reads one operand, and declares the name that it introduces.
    mutating func readOperand(_ parameter: Verb.Parameter, _ token: Token) throws(Diagnostic) -> Operand {
        switch parameter {
        case .newRegion: .newRegion(try declareRegion(token))
        case .newProcess: .process(try declareProcess(token))
        case .newDevice: .device(try declareDevice(token))
        case .movedRegion: try readMove(token)
        case .range: .range(try readRange(token))
        case .pages: .pages(try readNumber(token, parameter, in: 1...Limits.regionPages))
        case .protection: .protection(try readProtection(token))
        case .advice: .advice(try readWord(token, of: "an advice", Advice.self))
        case .seed: .seed(UInt32(try readNumber(token, parameter, in: Self.seeds)))
        case .deviceKind: .deviceKind(try readWord(token, of: "a kind of device", DeviceKindName.self))
        case .size: .size(try readSize(token))
        case .mapOptions: .mapOptions([])
        }
    }

    private static let seeds = Int(Limits.seeds.lowerBound)...Int(Limits.seeds.upperBound)

    // MARK: New names

    private mutating func declareRegion(_ token: Token) throws(Diagnostic) -> RegionID {
        try checkName(token, of: "a region")
        if names.region(named: token.text) != nil {
            throw Diagnostic(
                token.position, "a region '\(token.text)' is already there", expected: "a name of its own")
        }
        let region = RegionID(index: scenario.regions.count)
        names.declare(region: token.text, region)
        // Until its size is known (never, if that is wrong) no range lies outside of it.
        scenario.regions.append(.init(name: token.text, pageCount: Limits.regionPages, start: Layout.firstPage))
        return region
    }

    private mutating func declareProcess(_ token: Token) throws(Diagnostic) -> ProcessID {
        try checkName(token, of: "a process")
        if names.isTaken(process: token.text) {
            throw Diagnostic(
                token.position, "a process '\(token.text)' is already there", expected: "a name of its own")
        }
        let process = ProcessID(index: scenario.processes.count)
        names.declare(process: token.text, process)
        scenario.processes.append(token.text)
        return process
    }

    private mutating func declareDevice(_ token: Token) throws(Diagnostic) -> DeviceID {
        try checkName(token, of: "a device")
        if names.device(named: token.text) != nil {
            throw Diagnostic(
                token.position, "a device '\(token.text)' is already there", expected: "a name of its own")
        }
        let reserved = Verb.words(of: .process) + ["cpu", "race", "thread", "end", "expect"]
        if reserved.contains(token.text) {
            throw Diagnostic(token.position, "'\(token.text)' begins a statement", expected: "another name")
        }
        guard scenario.devices.count < Limits.devices else {
            throw Diagnostic(token.position, "too many devices", expected: "at most \(Limits.devices)")
        }
        let device = DeviceID(index: scenario.devices.count)
        names.declare(device: token.text, device)
        scenario.devices.append(.init(name: token.text, kind: .private))
        return device
    }

    // MARK: Words and numbers

    private func readWord<Word: RawRepresentable<String> & CaseIterable>(
        _ token: Token, of what: String, _: Word.Type
    ) throws(Diagnostic) -> Word {
        if let word = Word(rawValue: token.text) { return word }
        throw Diagnostic(
            token.position, "'\(token.text)' is not \(what)", expected: alternatives(Word.allCases.map(\.rawValue)))
    }

    private func readProtection(_ token: Token) throws(Diagnostic) -> Protection {
        if let entry = Protection.words.first(where: { $0.word == token.text }) { return entry.protection }
        throw Diagnostic(
            token.position, "'\(token.text)' is no protection", expected: alternatives(Protection.words.map(\.word)))
    }

    mutating func readMapOptions(_ rest: inout ArraySlice<Token>) throws(Diagnostic) -> MapOptions {
        var options: MapOptions = []
        while let token = rest.popFirst() {
            guard let entry = MapOptions.words.first(where: { $0.word == token.text }) else {
                throw Diagnostic(
                    token.position, "'\(token.text)' is no kind of mapping",
                    expected: alternatives(MapOptions.words.map(\.word)))
            }
            if options.contains(entry.option) {
                throw Diagnostic(token.position, "'\(token.text)' twice", expected: "each word once")
            }
            options.insert(entry.option)
        }
        return options
    }

    private func readSize(_ token: Token) throws(Diagnostic) -> UInt64 {
        let limits = Limits.deviceMemoryBytes
        guard let bytes = ByteSize.parse(token.text) else {
            throw Diagnostic(token.position, "'\(token.text)' is no size", expected: Verb.Parameter.size.expectation)
        }
        guard limits.contains(bytes), bytes % limits.lowerBound == 0 else {
            let (low, high) = (ByteSize.text(limits.lowerBound), ByteSize.text(limits.upperBound))
            throw Diagnostic(
                token.position, "\(token.text) of device memory", expected: "a multiple of \(low), \(high) at most")
        }
        return bytes
    }

    /// A decimal number; more digits than fit are too large, not malformed.
    private func readNumber(
        _ token: Token, _ parameter: Verb.Parameter, in limits: ClosedRange<Int>
    ) throws(Diagnostic) -> Int {
        guard let number = decimal(token.text[...]) else {
            throw Diagnostic(token.position, "'\(token.text)' is no number", expected: parameter.expectation)
        }
        guard limits.contains(number) else {
            throw Diagnostic(token.position, "\(token.text) is out of bounds", expected: parameter.expectation)
        }
        return number
    }

    /// Nil if `text` is not made of digits; what does not fit is `Int.max`.
    private func decimal(_ text: Substring) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }) else {
            return nil
        }
        return Int(text) ?? Int.max
    }

    // MARK: Regions and ranges

    private func region(named name: Substring, at position: SourcePosition) throws(Diagnostic) -> RegionID {
        if let region = names.region(named: String(name)) { return region }
        throw Diagnostic(position, "unknown region '\(name)'", expected: "the name of a 'map' before it")
    }

    private mutating func readMove(_ token: Token) throws(Diagnostic) -> Operand {
        let region = try region(named: token.text[...], at: token.position)
        guard let slot = names.takeSlots(forPages: scenario.regions[region.index].pageCount) else {
            throw Diagnostic(token.position, "no room to move to", expected: "fewer regions and moves")
        }
        return .move(region, to: Layout.start(ofSlot: slot))
    }

    /// `R`, `R[i]` or `R[a..<b]`
    private func readRange(_ token: Token) throws(Diagnostic) -> RegionRange {
        let text = token.text
        guard let bracket = text.firstIndex(of: "[") else {
            return RegionRange(region: try region(named: text[...], at: token.position), part: .whole)
        }
        let region = try region(named: text[..<bracket], at: token.position)
        let size = scenario.regions[region.index].pageCount
        let inner = text[text.index(after: bracket)...]
        let offset = text.unicodeScalars.distance(from: text.startIndex, to: bracket) + 1
        let position = token.position(at: offset)
        let form = Verb.Parameter.range.expectation
        guard inner.hasSuffix("]") else { throw Diagnostic(position, "'\(text)' is no range", expected: form) }
        let bounds = inner.dropLast()
        guard let dots = bounds.range(ofDots: "..<") else {
            guard let page = decimal(bounds) else {
                throw Diagnostic(position, "'\(text)' is no range", expected: form)
            }
            guard page < size else {
                throw Diagnostic(
                    position, "page \(bounds) is outside of '\(text[..<bracket])'", expected: "0 to \(size - 1)")
            }
            return RegionRange(region: region, part: .page(page))
        }
        guard let low = decimal(bounds[..<dots.lowerBound]), let high = decimal(bounds[dots.upperBound...]) else {
            throw Diagnostic(position, "'\(text)' is no range", expected: form)
        }
        guard low < high else {
            throw Diagnostic(position, "\(bounds) has no pages", expected: "a range that has some")
        }
        guard high <= size else {
            throw Diagnostic(
                position, "\(bounds) reaches outside of '\(text[..<bracket])'", expected: "an end of \(size) at most")
        }
        return RegionRange(region: region, part: .pages(low..<high))
    }
}

extension Substring {
    /// Where `separator` stands first.
    fileprivate func range(ofDots separator: String) -> Range<Index>? {
        var index = startIndex
        while index < endIndex {
            if self[index...].hasPrefix(separator) {
                return index..<self.index(index, offsetBy: separator.count)
            }
            index = self.index(after: index)
        }
        return nil
    }
}
