import Foundation
import Subprocess
import SystemPackage

/// The command `hmm` that was built with the tests, run as a person runs it.
package enum BuiltCommand {
    /// What a program printed, and how it ended.
    package struct Answer: Sendable {
        package var output: String
        package var errors: String
        /// Its exit status, or the number of the signal that ended it, negative.
        package var status: Int32
    }

    /// The folder of what was built: that of the tests, or of the bundle that holds them.
    package static let folder: URL? = CommandLine.arguments.map { URL(fileURLWithPath: $0) }
        .flatMap { [$0.deletingLastPathComponent(), $0.deletingLastPathComponent().deletingLastPathComponent()] }
        .first { FileManager.default.isExecutableFile(atPath: $0.appendingPathComponent("hmm").path) }

    package static var isThere: Bool { folder != nil }

    /// Where a product of the package lies; `hmm` itself unless told otherwise.
    package static func path(_ product: String = "hmm") -> String {
        folder?.appendingPathComponent(product).path ?? product
    }

    /// Runs a program until it ends.
    /// - Parameters:
    ///   - program: its path; the command, unless told otherwise.
    ///   - input: what it reads; nothing, unless told otherwise.
    ///   - environment: variables on top of the ones of the tests.
    package static func run(
        _ arguments: [String], program: String = path(), input: String = "", environment: [String: String] = [:]
    ) async throws -> Answer {
        let changes = environment.map { (Environment.Key(stringLiteral: $0), $1 as String?) }
        let result = try await Subprocess.run(
            .path(FilePath(program)), arguments: .init(arguments),
            environment: .inherit.updating(.init(uniqueKeysWithValues: changes)),
            input: .string(input), output: .string(limit: 1 << 24), error: .string(limit: 1 << 24))
        let status: Int32 =
            switch result.terminationStatus {
            case .exited(let status): status
            case .signaled(let signal): -signal
            }
        return Answer(output: result.standardOutput, errors: result.standardError, status: status)
    }
}
