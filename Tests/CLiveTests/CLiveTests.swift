import CLive
import CLiveCheck
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// What is held back from the kernel's features, to be where it is older or set up otherwise.
enum Kernel: CaseIterable, Sendable {
    case asItIs, copying, withoutMove, withoutProtection, withoutMoveAndProtection, withoutSignals, oldest

    private static let protection: UInt64 = 1 << 0
    private static let signals: UInt64 = 1 << 7
    private static let move: UInt64 = 1 << 16

    var options: clive_options {
        var options = clive_options()
        options.fault_around_pages = 1
        options.copy_only = self == .copying
        options.without_features =
            switch self {
            case .asItIs, .copying: 0
            case .withoutMove: Self.move
            case .withoutProtection: Self.protection
            case .withoutMoveAndProtection: Self.move | Self.protection
            case .withoutSignals: Self.signals
            case .oldest: Self.move | Self.protection | Self.signals
            }
        return options
    }

    /// userfaultfd is there and allowed.
    static let canStart: Bool = {
        var features = clive_features()
        clive_probe(&features)
        return features.open_error == 0
    }()
}

@Suite("Faults and moves in C", .serialized, .enabled(if: Kernel.canStart, "userfaultfd is not allowed here"))
struct CLiveTests {
    // Exit tests capture values of Codable types only, so a kernel travels as its place in the list.

    @Test("each call does what it says, by every transport", arguments: Kernel.allCases.indices)
    func calls(_ kernel: Int) async {
        await #expect(processExitsWith: .success) { [kernel] in
            var options = Kernel.allCases[kernel].options
            precondition(clive_check_calls(&options) == 0)
        }
    }

    @Test("pages that are pinned, shared, locked, huge, or of a stack", arguments: Kernel.allCases.indices)
    func pages(_ kernel: Int) async {
        await #expect(processExitsWith: .success) { [kernel] in
            var options = Kernel.allCases[kernel].options
            precondition(clive_check_pages(&options) == 0)
        }
    }

    @Test("no count is lost between CPUs, devices, moves and forks", arguments: Kernel.allCases.indices)
    func stress(_ kernel: Int) async {
        await #expect(processExitsWith: .success) { [kernel] in
            var options = Kernel.allCases[kernel].options
            precondition(clive_check_stress(&options, 2000) == 0)
        }
    }
}
