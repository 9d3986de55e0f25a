extension StatementResult {
    /// Reads the text form back; nil for text that no result has.
    package init?(text: String) {
        if let words = text.after("failed: ") { self = .failed(String(words)) } else { self.init(words: text) }
    }

    private init?(words text: String) {
        let words = text.split(separator: " ", omittingEmptySubsequences: false)
        guard let first = words.first else { return nil }
        if first == "error" {
            guard words.count == 2 else { return nil }
            self = .error(String(words[1]))
        } else if first != "ok" {
            guard let values = RunLengths(words, PageValue.init(text:)) else { return nil }
            self = .values(values)
        } else if words.count == 1 {
            self = .ok
        } else if words[1].contains("=") {
            self.init(request: words.dropFirst())
        } else {
            guard let bytes = RunLengths(words.dropFirst(), { UInt8($0, radix: 16) }) else { return nil }
            self = .snapshot(bytes)
        }
    }

    private init?(request words: ArraySlice<Substring>) {
        var counts: [Count] = []
        for word in words.prefix(while: { $0 != "values" }) {
            let parts = word.split(separator: "=", omittingEmptySubsequences: false)
            guard parts.count == 2, let value = Int(parts[1]) else { return nil }
            counts.append(Count(String(parts[0]), value))
        }
        let rest = words.dropFirst(counts.count)
        if rest.isEmpty {
            self = .request(counts, values: nil)
        } else {
            guard let values = RunLengths(rest.dropFirst(), PageValue.init(text:)) else { return nil }
            self = .request(counts, values: values)
        }
    }
}

extension PageValue {
    init?(text: Substring) {
        switch text {
        case "0": self = .zero
        case "x": self = .torn
        case "!": self = .segmentationFault
        case "B": self = .busError
        default:
            guard let seed = UInt32(text) else { return nil }
            self = .seed(seed)
        }
    }
}

extension RunLengths {
    /// Runs as `text` writes them.
    fileprivate init?(_ words: some Sequence<Substring>, _ value: (Substring) -> Value?) {
        self.init()
        for word in words {
            let parts = word.split(separator: "*", omittingEmptySubsequences: false)
            guard let value = value(parts[0]) else { return nil }
            guard parts.count > 1 else {
                append(value)
                continue
            }
            guard parts.count == 2, let count = Int(parts[1]), count > 1 else { return nil }
            append(value, count: count)
        }
    }
}

extension String {
    fileprivate func after(_ prefix: String) -> Substring? { hasPrefix(prefix) ? dropFirst(prefix.count) : nil }
}
