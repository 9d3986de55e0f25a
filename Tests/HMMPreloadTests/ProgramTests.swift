import CLive
import CommandRunner
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
    func probe(_ name: String) async throws {
        let result = try await BuiltCommand.run(["exec", "--", BuiltCommand.path("PreloadProbe"), name])
        #expect(result.output == "ok \(name)\n")
        #expect(result.errors == "")
        #expect(result.status == 0)
    }

    @Test("the exit status is that of the program, or says why there was none")
    func statuses() async throws {
        #expect(try await BuiltCommand.run(["exec", "--", "sh", "-c", "exit 7"]).status == 7)
        let missing = try await BuiltCommand.run(["exec", "--", "/nowhere/program"])
        #expect(missing.status == 127)
        #expect(missing.errors.contains("/nowhere/program: No such file"))
        #expect(try await BuiltCommand.run(["exec", "--", "/"]).status == 126)
        #expect(try await BuiltCommand.run(["exec"]).status == 64)
        #expect(try await BuiltCommand.run(["exec", "--fault-around", "3", "--", "true"]).status == 64)
    }

    @Test("a command without its library says so")
    func missingLibrary() async throws {
        // A link: a copy that was written just now is busy as long as a child of another test has it open.
        let folder = try #require(BuiltCommand.folder).appendingPathComponent("hmm-exec-\(getpid())")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let copy = folder.appendingPathComponent("hmm")
        try FileManager.default.linkItem(atPath: BuiltCommand.path(), toPath: copy.path)
        let result = try await BuiltCommand.run(["exec", "--", "true"], program: copy.path)
        #expect(result.status == 2)
        #expect(result.errors.contains("libHMMPreload.so is not there"))
    }

    @Test("other preloaded libraries stay, behind ours")
    func otherLibraries() {
        #expect(ExecCommand.preloading("/a/ours.so", nil) == "/a/ours.so")
        #expect(ExecCommand.preloading("/a/ours.so", "") == "/a/ours.so")
        #expect(ExecCommand.preloading("/a/ours.so", "/b.so /a/ours.so:/c.so") == "/a/ours.so:/b.so:/c.so")
    }
}

private let checksOfProbe = [
    "names", "copies", "closing", "stale-numbers", "fork", "vfork", "coherent-copies", "arguments", "mappings",
    "system-calls", "carriers", "allocator", "device-mapping", "pins", "signals", "threads",
    "allocating-threads", "programs",
]

/// The same where the faults that the kernel takes in system calls are not answered: what a user gets who may not
/// have more, and what root gets who asks for no more.
@Suite(
    "Programs under hmm exec, without the faults of system calls", .serialized,
    .enabled(if: LiveSpace.features.open_error == 0, "userfaultfd cannot be had here"))
struct UnprivilegedProgramTests {
    @Test("a program finds the driver as a kernel has it", arguments: checksOfProbe)
    func probe(_ name: String) async throws {
        try check(
            try await BuiltCommand.run(
                ["exec", "--", BuiltCommand.path("PreloadProbe"), name],
                environment: ["HMM_WITHOUT": "kernel-faults"]), name)
    }

    /// Where everybody may read what was built, and this is root, as somebody who is not.
    @Test(
        "another user's program too",
        .enabled("needs root, setpriv and a build folder that all may read") { await OtherUser.isThere },
        arguments: checksOfProbe)
    func probeOfOthers(_ name: String) async throws {
        try check(
            try await BuiltCommand.run(
                OtherUser.prefix + [BuiltCommand.path(), "exec", "--", BuiltCommand.path("PreloadProbe"), name],
                program: OtherUser.command), name)
    }

    private func check(_ result: BuiltCommand.Answer, _ name: String) throws {
        #expect(result.output == "ok \(name)\n")
        // One line for each process that opens a device, or none where users may have all faults.
        let lines = result.errors.split(separator: "\n")
        #expect(lines.allSatisfy { $0.hasPrefix("hmm exec: userfaultfd is allowed for faults of programs only") })
        #expect(result.status == 0)
    }
}

/// How a command is run as a user without rights.
private enum OtherUser {
    static let command = "/usr/bin/setpriv"
    static let prefix = ["--reuid=65534", "--regid=65534", "--clear-groups"]

    static var isThere: Bool {
        get async {
            guard geteuid() == 0, FileManager.default.isExecutableFile(atPath: command) else { return false }
            let answer = try? await BuiltCommand.run(prefix + [BuiltCommand.path(), "--version"], program: command)
            return answer?.status == 0
        }
    }
}
