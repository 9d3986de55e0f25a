import Glibc
import HMM
import HMMScenario

// Words of the system, for what the language means.

extension Protection {
    /// PROT_ bits.
    var bits: Int32 {
        (contains(.read) ? PROT_READ : 0) | (contains(.write) ? PROT_WRITE : 0) | (contains(.execute) ? PROT_EXEC : 0)
    }
}

extension Advice {
    /// The MADV_ number.
    var bits: Int32 {
        switch self {
        case .hugepage: 14
        case .nohugepage: 15
        case .dontneed: 4
        case .free: 8
        case .pageout: 21
        case .collapse: 25
        case .populateRead: 22
        case .populateWrite: 23
        case .remove: 9
        }
    }
}

extension HMMError {
    /// What the system said.
    init(errno number: Int32) {
        self = HMMError(Code(rawValue: number) ?? .inconsistent, "the system refused")
    }
}

extension PageNumber {
    var pointer: UnsafeMutableRawPointer? { UnsafeMutableRawPointer(bitPattern: UInt(address.raw)) }
}

extension Range where Bound == PageNumber {
    var base: UnsafeMutableRawPointer? { lowerBound.pointer }
    var byteCount: Int { pageCount * Geometry.pageSizeBytes }
}

/// Flags that Swift has no words for.
enum SystemFlags {
    /// MAP_FIXED_NOREPLACE
    static let mapHere: Int32 = 0x10_0000
    /// MAP_HUGETLB
    static let mapHuge: Int32 = 0x4_0000
    /// MREMAP_MAYMOVE | MREMAP_FIXED
    static let moveHere: Int32 = 3
}

/// The machine on which scenarios run.
enum Machinery {
    /// Whether anonymous pages can leave memory.
    static let hasSwap: Bool = {
        guard let text = try? TextFile.read("/proc/swaps") else { return false }
        return text.split(separator: "\n").count > 1
    }()
}
