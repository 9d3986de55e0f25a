// swift-tools-version: 6.2
import PackageDescription

// Every target is built with these. `HMM_INVARIANT_CHECKS` turns on the self-checks that cost more than a
// predictable branch (lock ownership, lock order, use of freed frames); debug builds always have them.
//
// `HMM_WARNINGS_AS_ERRORS` in the environment, as `.ci/run` sets it, makes every warning of ours an error;
// dependencies are built as they are.
let settings: [SwiftSetting] =
    [
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("ExistentialAny"),
        .define("HMM_INVARIANT_CHECKS", .when(configuration: .debug)),
    ] + (Context.environment["HMM_WARNINGS_AS_ERRORS"] == nil ? [] : [.treatAllWarnings(as: .error)])

let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
// Run the command in tests.
let subprocess: Target.Dependency = .product(name: "Subprocess", package: "swift-subprocess")
let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")

let package = Package(
    name: "swift-hmm",
    products: [
        .library(name: "HMM", targets: ["HMM"]),
        .library(name: "HMMExplorer", targets: ["HMMExplorer"]),
        .library(name: "HMMLive", targets: ["HMMLive"]),
        // Loaded into the program that `hmm exec` runs.
        .library(name: "HMMPreload", type: .dynamic, targets: ["HMMPreload"]),
        .executable(name: "hmm", targets: ["hmm"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    ],
    targets: [
        // The few system headers that Swift cannot import, and the context switch of the schedulers.
        .target(name: "CLinux"),
        // The core. One module, so that page walks inline; its folders are the architecture.
        .target(name: "HMM", dependencies: ["CLinux"], swiftSettings: settings),
        // The scenario language: text, statements, result lines, and the player.
        .target(name: "HMMScenario", dependencies: ["HMM"], swiftSettings: settings),
        // Runs threads of the core in every order.
        .target(name: "HMMExplorer", dependencies: ["HMM", "HMMScenario"], swiftSettings: settings),
        // The memory of the running process behind the surface that drivers use.
        .target(name: "CLive"),
        .target(name: "HMMLive", dependencies: ["HMM", "CLive"], swiftSettings: settings),
        // Plays scenarios on it, with real processes.
        .target(name: "CLivePlay"),
        .target(
            name: "HMMLivePlay", dependencies: ["HMM", "HMMScenario", "HMMLive", "CLive", "CLivePlay"],
            swiftSettings: settings),
        // The kernel's test driver for a program that knows nothing of it.
        .target(name: "CPreload"),
        .target(name: "HMMPreload", dependencies: ["HMM", "HMMLive", "CLive", "CPreload"], swiftSettings: settings),
        // Real bugs of the field, each with the explorer finding it.
        .target(name: "Museum", dependencies: ["HMM", "HMMExplorer"], path: "Museum", swiftSettings: settings),
        // What the host kernel takes for the operations of `hmm bench`.
        .target(name: "CBench"),
        // The command.
        .executableTarget(
            name: "hmm",
            dependencies: [
                "HMM", "HMMScenario", "HMMExplorer", "HMMLive", "HMMLivePlay", "Museum", "CLinux", "CLive", "CBench",
                argumentParser, logging,
            ],
            swiftSettings: settings),
        // A program that uses the library: an array, and a device with less memory than that.
        .executableTarget(
            name: "out-of-core", dependencies: ["HMM", "HMMLive"], path: "Examples/OutOfCore", swiftSettings: settings),
        .testTarget(name: "HMMTests", dependencies: ["HMM"], swiftSettings: settings),
        // Runs the command as a person does, for the tests of all parts of it.
        .target(
            name: "CommandRunner", dependencies: [subprocess, system], path: "Tests/CommandRunner",
            swiftSettings: settings),
        .testTarget(
            name: "HMMScenarioTests", dependencies: ["HMM", "HMMScenario", "CommandRunner"], swiftSettings: settings),
        // The C part of it alone, in C.
        .target(name: "CLiveCheck", dependencies: ["CLive"], path: "Tests/CLiveCheck"),
        .testTarget(name: "CLiveTests", dependencies: ["CLive", "CLiveCheck"], swiftSettings: settings),
        .testTarget(
            name: "HMMLiveTests",
            dependencies: ["HMM", "HMMScenario", "HMMLive", "HMMLivePlay", "CLive", "CLivePlay", "CommandRunner"],
            swiftSettings: settings),
        // A program under `hmm exec`, and what runs it.
        .executableTarget(name: "PreloadProbe", path: "Tests/PreloadProbe"),
        .testTarget(
            name: "HMMPreloadTests", dependencies: ["hmm", "HMMLive", "CLive", "CommandRunner"],
            swiftSettings: settings),
        .testTarget(
            name: "HMMExplorerTests", dependencies: ["HMM", "HMMExplorer", "HMMScenario"], swiftSettings: settings),
        .testTarget(name: "MuseumTests", dependencies: ["HMMExplorer", "Museum"], swiftSettings: settings),
        .testTarget(
            name: "HMMBenchTests",
            dependencies: [
                "hmm", "HMM", "HMMExplorer", "HMMScenario", "CLive", "Museum", "CommandRunner", argumentParser,
            ],
            swiftSettings: settings),
        .testTarget(name: "ConformanceTests", dependencies: ["HMM", "HMMScenario"], swiftSettings: settings),
        // Reads the sources and documents as text: order of folders, bans, sizes, links.
        .testTarget(name: "TidyTests", swiftSettings: settings),
    ],
    swiftLanguageModes: [.v6]
)
