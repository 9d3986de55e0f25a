import CBench
import Glibc
import HMM

/// Why a row has no number.
struct BenchFailure: Error {
    let reason: String
    init(_ reason: String) { self.reason = reason }

    /// What went wrong, in the words of who noticed it.
    static func reason(of error: any Error) -> String {
        switch error {
        case let failure as BenchFailure: failure.reason
        case let error as HMMError: error.description
        default: "\(error)"
        }
    }
}

/// How much is measured.
struct BenchScale: Sendable {
    /// Tiny inputs, to see that everything runs.
    var isQuick = false

    /// Samples of a row, of which the median counts.
    var samples: Int { isQuick ? 3 : 15 }
    /// The full size of an input, or a tiny one.
    func pick(_ full: Int, quick: Int) -> Int { isQuick ? quick : full }
}

/// The numbers of one row, gathered sample by sample. Ours and the reference take turns, so that whatever else the
/// machine does meets both.
struct Samples {
    private(set) var ours: [Double] = []
    private(set) var reference: [Double] = []
    /// Why there is no reference.
    private(set) var missing: String?
    private(set) var checksum: UInt64 = 0

    /// Takes `count` samples of each side and one before them that does not count.
    ///
    /// `ours` answers nanoseconds and a checksum over what it has read back. `reference` answers nanoseconds, or a
    /// negative errno, after which it is not asked again.
    mutating func take(
        _ count: Int, ours measureOurs: () throws -> (nanoseconds: UInt64, checksum: UInt64),
        reference measureReference: () -> Int64
    ) throws {
        for index in 0...count {
            let sample = try measureOurs()
            checksum = checksum &* 31 &+ sample.checksum
            if index > 0 { ours.append(Double(sample.nanoseconds)) }
            guard missing == nil else { continue }
            let taken = measureReference()
            if taken < 0 {
                missing = String(cString: strerror(Int32(-taken)))
                reference = []
            } else if index > 0 {
                reference.append(Double(taken))
            }
        }
    }

    /// The row with the medians, in units of which one sample holds `perSample`.
    func fill(_ row: BenchRow, perSample: Double) -> BenchRow {
        var row = row
        row.ours = Self.median(ours) / perSample
        if let missing {
            row.note = "no reference: \(row.referenceName): \(missing)"
        } else if !reference.isEmpty {
            row.reference = Self.median(reference) / perSample
        }
        return row
    }

    /// The median of the quarter with the smallest values: what a busy machine disturbed least.
    static func calm(_ values: [Double]) -> Double {
        median(Array(values.sorted().prefix(max(1, values.count / 4))))
    }

    static func median(_ values: [Double]) -> Double {
        precondition(!values.isEmpty, "a median of nothing")
        let sorted = values.sorted()
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }
}

/// A region of the host, of 4 KiB pages or of huge ones, freed at the end of `body`.
func withHostRegion<Result>(
    pages: Int, huge: Bool = false, _ body: (inout cbench_region) throws -> Result
) throws -> Result {
    var region = cbench_region()
    let status = cbench_region_make(&region, pages, huge)
    guard status == 0 else {
        throw BenchFailure("memory for the reference: " + String(cString: strerror(Int32(-status))))
    }
    defer { cbench_region_free(&region) }
    return try body(&region)
}
