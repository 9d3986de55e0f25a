import Glibc
import HMM

/// One end of a connection between the player and a process: whole lines of text, both ways.
final class LineSocket: @unchecked Sendable {
    let descriptor: Int32
    /// What came behind the last line that was taken. Touched by the one thread that receives.
    private var received: [UInt8] = []
    /// Held while a line is sent, so that lines of several threads do not mix.
    private let sending = FairMutex(.driver)

    init(descriptor: Int32) { self.descriptor = descriptor }

    /// Two ends. Nil, with `errno` set, when the system has no more.
    static func pair() -> (LineSocket, LineSocket)? {
        var descriptors: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &descriptors) == 0 else { return nil }
        return (LineSocket(descriptor: descriptors[0]), LineSocket(descriptor: descriptors[1]))
    }

    func close() { Glibc.close(descriptor) }

    /// False when nobody is at the other end.
    func send(_ line: String) -> Bool {
        sending.withLock {
            var rest = Array((line + "\n").utf8)[...]
            while !rest.isEmpty {
                let count = rest.withUnsafeBytes { bytes in
                    Glibc.send(descriptor, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL))
                }
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { return false }
                rest = rest.dropFirst(count)
            }
            return true
        }
    }

    /// The next line, for which this waits; nil when nobody is at the other end.
    func receive() -> String? {
        while true {
            if let line = takeLine() { return line }
            guard fill() else { return nil }
        }
    }

    /// A line that is there already.
    func takeLine() -> String? {
        guard let end = received.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        let line = String(decoding: received[..<end], as: UTF8.self)
        received.removeSubrange(...end)
        return line
    }

    /// Waits for bytes. False when there will be none.
    func fill() -> Bool {
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = chunk.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return false }
            received += chunk[..<count]
            return true
        }
    }
}
