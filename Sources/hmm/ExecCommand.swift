import ArgumentParser
import Glibc

/// `hmm exec`: a program with the kernel's test driver present.
struct ExecCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exec",
        abstract: "Run a program with /dev/hmm_dmirror0…3 present.",
        discussion: """
            The program is run as it is, with a library loaded before its own that provides the devices of the \
            kernel's test driver (lib/test_hmm.c of Linux 6.12): /dev/hmm_dmirror0 and 1 have private memory, 2 and 3 \
            coherent memory, and /sys/kernel/debug/gup_test pins pages. They work on the memory of the program \
            itself, by userfaultfd; `hmm doctor` says whether that is allowed here.

              hmm exec -- ./hmm-tests

            The program must be linked dynamically. Its exit status is that of the command; 127 when it is not found, \
            126 when it cannot be run.
            """
    )

    @Option(help: "Pages that a CPU's touch brings back at once from a device: a power of 2, at most 512.")
    var faultAround = 1

    @Argument(parsing: .postTerminator, help: "The program and its arguments, after `--`.")
    var command: [String] = []

    func validate() throws {
        guard !command.isEmpty else { throw ValidationError("no program: hmm exec -- PROGRAM ARGUMENTS") }
        guard faultAround > 0, faultAround <= 512, faultAround & (faultAround - 1) == 0 else {
            throw ValidationError("--fault-around is a power of 2, at most 512")
        }
    }

    func run() throws {
        let library = try Self.findLibrary()
        setenv("LD_PRELOAD", Self.preloading(library, getenv("LD_PRELOAD").map { String(cString: $0) }), 1)
        // The handlers of crashes that the Swift runtime brings along are not of the program.
        setenv("SWIFT_BACKTRACE", "enable=no", 1)
        setenv("HMM_EXEC_FAULT_AROUND", String(faultAround), 1)
        var arguments = command.map { strdup($0) }
        arguments.append(nil)
        execvp(command[0], arguments)
        let error = errno
        Console.complain("hmm exec: \(command[0]): \(String(cString: strerror(error)))")
        throw ExitCode(error == ENOENT ? 127 : 126)
    }

    /// The list of libraries with ours first, once.
    static func preloading(_ library: String, _ others: String?) -> String {
        let rest = (others ?? "").split(whereSeparator: { $0 == ":" || $0 == " " }).filter { $0 != library }
        return ([library] + rest.map(String.init)).joined(separator: ":")
    }

    /// The library beside this executable.
    private static func findLibrary() throws -> String {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let length = buffer.withUnsafeMutableBytes { bytes in
            readlink("/proc/self/exe", bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        let executable = String(decoding: buffer.prefix(max(length, 0)), as: UTF8.self)
        let folder = executable.prefix(upTo: executable.lastIndex(of: "/") ?? executable.startIndex)
        let library = "\(folder)/libHMMPreload.so"
        guard access(library, R_OK) == 0 else {
            Console.complain(
                "hmm exec: \(library) is not there: it belongs beside the command, and `swift build` makes it")
            throw ExitCode(2)
        }
        // The list of LD_PRELOAD has no way to quote.
        guard !library.contains(where: { $0 == " " || $0 == ":" }) else {
            Console.complain("hmm exec: \(library): a path with a space or a colon cannot be preloaded")
            throw ExitCode(2)
        }
        return library
    }
}
