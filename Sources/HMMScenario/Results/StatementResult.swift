import HMM

/// What a statement answered.
package enum StatementResult: Hashable, Sendable {
    case ok
    /// The name of an errno.
    case error(String)
    /// What the CPU saw, page by page; for a write that faulted, the faults and what was written.
    case values(RunLengths<PageValue>)
    /// A device request: its counts in the order of printing, and the pages that it read.
    case request([Count], values: RunLengths<PageValue>?)
    /// A byte a page.
    case snapshot(RunLengths<UInt8>)
    /// In words: the statement could not be run at all. The model always can.
    case failed(String)

    /// A named number of a result, `pages=4` for instance.
    package struct Count: Hashable, Sendable {
        package var name: String
        package var value: Int

        package init(_ name: String, _ value: Int) {
            self.name = name
            self.value = value
        }
    }

    package init(_ error: HMMError) { self = .error(error.errnoName) }

    package var isError: Bool {
        switch self {
        case .error, .failed: true
        default: false
        }
    }

    /// A page was torn, which never may be.
    package var isTorn: Bool {
        switch self {
        case .values(let values), .request(_, values: .some(let values)): values.contains { $0 == .torn }
        default: false
        }
    }

    /// The result as in the recordings, without the line number.
    package var text: String {
        switch self {
        case .ok: "ok"
        case .error(let name): "error \(name)"
        case .values(let values): values.text(\.text)
        case .request(let counts, let values):
            (["ok"] + counts.map { "\($0.name)=\($0.value)" } + (values.map { ["values", $0.text(\.text)] } ?? []))
                .joined(separator: " ")
        case .snapshot(let bytes): "ok " + bytes.text(Self.hexByte)
        case .failed(let words): "failed: " + words
        }
    }

    private static func hexByte(_ byte: UInt8) -> String {
        (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
}
