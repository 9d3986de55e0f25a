import CLive
import Foundation
import HMMLive
import Testing

@testable import hmm

/// Programs that were written against the kernel's test driver, run by `hmm exec`. Each check is in
/// Tests/PreloadProbe.
@Suite(
    "Programs under hmm exec", .serialized,
    .enabled(if: LiveSpace.features.kernel_faults, "userfaultfd answers no faults of system calls here"))
struct ProgramTests {
    @Test("a program finds the driver as a kernel has it", arguments: checksOfProbe)
    func probe(_ name: String) throws {
        let result = try Command.run(["exec", "--", Command.folder + "/PreloadProbe", name])
        #expect(result.output == "ok \(name)\n")
        #expect(result.complaint == "")
        #expect(result.status == 0)
    }

    @Test("the exit status is that of the program, or says why there was none")
    func statuses() throws {
        #expect(try Command.run(["exec", "--", "sh", "-c", "exit 7"]).status == 7)
        let missing = try Command.run(["exec", "--", "/nowhere/program"])
        #expect(missing.status == 127)
        #expect(missing.complaint.contains("/nowhere/program: No such file"))
        #expect(try Command.run(["exec", "--", "/"]).status == 126)
        #expect(try Command.run(["exec"]).status == 64)
        #expect(try Command.run(["exec", "--fault-around", "3", "--", "true"]).status == 64)
    }

    @Test("a command without its library says so")
    func missingLibrary() throws {
        // A link: a copy that was written just now is busy as long as a child of another test has it open.
        let folder = URL(fileURLWithPath: Command.folder).appendingPathComponent("hmm-exec-\(getpid())")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let copy = folder.appendingPathComponent("hmm")
        try FileManager.default.linkItem(atPath: Command.folder + "/hmm", toPath: copy.path)
        let result = try Command.run(["exec", "--", "true"], command: copy.path)
        #expect(result.status == 2)
        #expect(result.complaint.contains("libHMMPreload.so is not there"))
    }

    @Test("other preloaded libraries stay, behind ours")
    func otherLibraries() {
        #expect(ExecCommand.preloading("/a/ours.so", nil) == "/a/ours.so")
        #expect(ExecCommand.preloading("/a/ours.so", "") == "/a/ours.so")
        #expect(ExecCommand.preloading("/a/ours.so", "/b.so /a/ours.so:/c.so") == "/a/ours.so:/b.so:/c.so")
    }
}

private let checksOfProbe = [
    "names", "copies", "stale-numbers", "fork", "vfork", "coherent-copies", "arguments", "mappings", "system-calls",
    "carriers", "allocator", "device-mapping", "pins", "signals", "threads",
    "allocating-threads", "programs",
]

/// The same where the faults that the kernel takes in system calls are not answered: what a user gets who may not
/// have more, and what root gets who asks for no more.
@Suite(
    "Programs under hmm exec, without the faults of system calls", .serialized,
    .enabled(if: LiveSpace.features.open_error == 0, "userfaultfd cannot be had here"))
struct UnprivilegedProgramTests {
    @Test("a program finds the driver as a kernel has it", arguments: checksOfProbe)
    func probe(_ name: String) throws {
        try check(
            try Command.run(
                [
                    "HMM_WITHOUT=kernel-faults", Command.folder + "/hmm", "exec", "--",
                    Command.folder + "/PreloadProbe", name,
                ], command: "/usr/bin/env"), name)
    }

    /// Where everybody may read what was built, and this is root, as somebody who is not.
    @Test(
        "another user's program too",
        .enabled(if: OtherUser.isThere, "needs root, setpriv and a build folder that all may read"),
        arguments: checksOfProbe)
    func probeOfOthers(_ name: String) throws {
        try check(
            try Command.run(
                OtherUser.prefix + [Command.folder + "/hmm", "exec", "--", Command.folder + "/PreloadProbe", name],
                command: OtherUser.command), name)
    }

    private func check(_ result: Command.Result, _ name: String) throws {
        #expect(result.output == "ok \(name)\n")
        // One line for each process that opens a device, or none where users may have all faults.
        let lines = result.complaint.split(separator: "\n")
        #expect(lines.allSatisfy { $0.hasPrefix("hmm exec: userfaultfd is allowed for faults of programs only") })
        #expect(result.status == 0)
    }
}

/// How a command is run as a user without rights.
private enum OtherUser {
    static let command = "/usr/bin/setpriv"
    static let prefix = ["--reuid=65534", "--regid=65534", "--clear-groups"]

    static let isThere =
        geteuid() == 0 && FileManager.default.isExecutableFile(atPath: command)
        && (try? Command.run(prefix + [Command.folder + "/hmm", "--version"], command: command).status) == 0
}

/// The command that was built with the tests.
private enum Command {
    struct Result {
        let status: Int32
        let output: String
        let complaint: String
    }

    /// The package's products lie beside the tests in the build folder, or beside the bundle that holds them.
    static let folder: String = CommandLine.arguments.map { URL(fileURLWithPath: $0).deletingLastPathComponent() }
        .flatMap { [$0, $0.deletingLastPathComponent()] }
        .first { FileManager.default.isExecutableFile(atPath: $0.appendingPathComponent("hmm").path) }?.path ?? ""

    static func run(_ arguments: [String], command: String = folder + "/hmm") throws -> Result {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: command)
        process.arguments = arguments
        let output = Pipe(), complaint = Pipe()
        process.standardOutput = output
        process.standardError = complaint
        try process.run()
        // Few lines: neither pipe fills up while the other is read.
        let text = output.fileHandleForReading.readDataToEndOfFile()
        let errors = complaint.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        let status = process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
        return Result(
            status: status, output: String(decoding: text, as: UTF8.self),
            complaint: String(decoding: errors, as: UTF8.self))
    }
}
