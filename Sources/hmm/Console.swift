import Glibc

/// The streams of the command.
enum Console {
    /// Results go to standard output, and nothing else does.
    static func write(_ text: String) { print(text, terminator: "") }

    /// Complaints go to standard error, behind the results printed before them.
    static func complain(_ text: String) {
        fflush(nil)
        let bytes = Array((text + "\n").utf8)
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    /// Colours are for terminals, and only for those who want them (https://no-color.org).
    static var wantsColor: Bool {
        if let noColor = getenv("NO_COLOR"), noColor.pointee != 0 { return false }
        if let terminal = getenv("TERM"), String(cString: terminal) == "dumb" { return false }
        return isatty(STDOUT_FILENO) == 1
    }

    /// Processors that this process may use.
    static var processorCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
}
