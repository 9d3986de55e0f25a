import HMM

/// One schedule of one program as short text that a command line, a URL and a test can carry: it reproduces a failure.
///
/// The text is `x1-` and, in the alphabet of base64url, the bytes: fingerprint of the program (4), seed, step limit,
/// detours (each the steps since the one before, times 16, plus the thread), and a checksum (2). Numbers are written in
/// groups of 7 bits, lowest first. The `1` is the version: another one means something else by the same schedule.
public struct ReplayToken: Hashable, Sendable, CustomStringConvertible {
    public var schedule: Schedule
    /// Of the program that the schedule belongs to; another one would make other steps.
    public var fingerprint: UInt32
    /// Of the exploration: the program may have seen it.
    public var seed: UInt64
    public var stepLimit: Int

    private static let version = "1"
    private static let threadBits: UInt64 = 4
    /// No schedule is as long; a number beyond it would not fit the arithmetic that follows.
    private static let stepBound = UInt64(1) << 40

    public init(schedule: Schedule, program: String, seed: UInt64, stepLimit: Int) {
        self.schedule = schedule
        fingerprint = Self.fingerprint(of: program)
        self.seed = seed
        self.stepLimit = stepLimit
    }

    /// Reads a token that `description` wrote.
    public init(_ text: String) throws(ReplayTokenError) {
        let bytes = try Self.bytes(of: text)
        var reader = NumberReader(bytes.dropLast(2))
        var fingerprint: UInt32 = 0
        for index in 0..<4 { fingerprint |= UInt32(try reader.byte()) << UInt32(8 * index) }
        self.fingerprint = fingerprint
        seed = try reader.number()
        stepLimit = Int(try reader.number(below: Self.stepBound))
        schedule = Schedule()
        var step: UInt64 = 0
        while !reader.isAtEnd {
            let word = try reader.number(below: Self.stepBound)
            step += word >> Self.threadBits
            guard step < Self.stepBound else { throw .damaged }
            schedule.detours.append(
                Schedule.Detour(step: Int(step), thread: Int(word & (1 << Self.threadBits - 1))))
        }
    }

    /// What comes after the version, once the checksum was found right.
    private static func bytes(of text: String) throws(ReplayTokenError) -> [UInt8] {
        guard text.hasPrefix("x"), let dash = text.firstIndex(of: "-") else { throw .noToken(text) }
        let version = String(text[text.index(after: text.startIndex)..<dash])
        guard !version.isEmpty, version.allSatisfy(\.isNumber) else { throw .noToken(text) }
        guard version == Self.version else { throw .unknownVersion(version) }
        guard let bytes = Base64URL.bytes(of: text[text.index(after: dash)...]) else { throw .damaged }
        guard bytes.count >= 8 else { throw .damaged }
        let sum = checksum(bytes.dropLast(2))
        guard bytes.suffix(2) == [UInt8(sum & 0xff), UInt8(sum >> 8)] else { throw .damaged }
        return bytes
    }

    public var description: String {
        var bytes: [UInt8] = []
        for index in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: fingerprint >> UInt32(8 * index))) }
        func add(_ number: UInt64) {
            var rest = number
            while rest >= 0x80 {
                bytes.append(UInt8(rest & 0x7f) | 0x80)
                rest >>= 7
            }
            bytes.append(UInt8(rest))
        }
        add(seed)
        add(UInt64(stepLimit))
        var last = 0
        for detour in schedule.detours {
            add(UInt64(detour.step - last) << Self.threadBits | UInt64(detour.thread))
            last = detour.step
        }
        let sum = Self.checksum(bytes[...])
        bytes += [UInt8(sum & 0xff), UInt8(sum >> 8)]
        return "x\(Self.version)-\(Base64URL.text(of: bytes))"
    }

    /// Throws unless the token was made for this program.
    public func check(program: String) throws(ReplayTokenError) {
        guard fingerprint == Self.fingerprint(of: program) else { throw .otherProgram }
    }

    /// FNV-1a: the same in every process.
    static func fingerprint(of program: String) -> UInt32 { hash(program.utf8) }

    private static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt16 {
        let hash = hash(bytes)
        return UInt16(truncatingIfNeeded: hash ^ hash >> 16)
    }

    private static func hash(_ bytes: some Sequence<UInt8>) -> UInt32 {
        var hash: UInt32 = 0x811c_9dc5
        for byte in bytes { hash = (hash ^ UInt32(byte)) &* 0x0100_0193 }
        return hash
    }
}

/// Why a token cannot be replayed.
public enum ReplayTokenError: Error, Hashable, Sendable, CustomStringConvertible {
    case noToken(String)
    case unknownVersion(String)
    case damaged
    case otherProgram

    public var description: String {
        switch self {
        case .noToken(let text): "'\(text)' is no replay token: one begins with 'x1-'"
        case .unknownVersion(let version): "the replay token has version \(version), and only version 1 is known"
        case .damaged: "the replay token is damaged: characters are missing or wrong"
        case .otherProgram: "the replay token was made for another program, or for another text of this one"
        }
    }
}

extension ExplorationOptions {
    /// Run the schedule of `token`, and no other. Throws if it was made for another program.
    public mutating func replay(_ token: ReplayToken) throws(ReplayTokenError) {
        try token.check(program: program)
        replay = token.schedule
        seed = token.seed
        stepLimit = token.stepLimit
    }
}

/// Numbers of variable length, one after the other.
private struct NumberReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    var isAtEnd: Bool { rest.isEmpty }

    mutating func byte() throws(ReplayTokenError) -> UInt8 {
        guard let byte = rest.popFirst() else { throw .damaged }
        return byte
    }

    mutating func number(below bound: UInt64 = .max) throws(ReplayTokenError) -> UInt64 {
        var number: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            let byte = try byte()
            number |= UInt64(byte & 0x7f) << shift
            if byte & 0x80 == 0 {
                guard number <= bound else { throw .damaged }
                return number
            }
        }
        throw .damaged
    }
}
