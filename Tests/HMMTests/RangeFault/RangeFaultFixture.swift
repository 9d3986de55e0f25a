import Synchronization
import Testing

@testable import HMM

/// A machine with one address space, one CPU, and an interval over everything.
final class RangeFaultFixture {
    let machine: Machine
    let space: AddressSpace
    let cpu: CPU
    let client = RecordingClient()
    let interval: IntervalNotifier
    /// The first page of the region that layouts are made in; 2 MiB aligned.
    static let base = PageNumber(0x1_000_000)

    init(_ profile: KernelProfile = .linux6_12) throws {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = 64 << 20
        configuration.swapBytes = 16 << 20
        configuration.hugetlbPages = 4
        configuration.profile = profile
        machine = try Machine(configuration)
        space = try machine.makeAddressSpace()
        cpu = space.makeCPU()
        interval = try space.notifiers.insert(client, over: PageNumber(0)..<Geometry.endPage)
    }

    deinit { interval.remove() }

    /// Pages of the region, by index.
    func region(_ range: Range<Int>) -> PageRange {
        Self.base.advanced(by: range.lowerBound)..<Self.base.advanced(by: range.upperBound)
    }

    func map(_ range: Range<Int>, _ protection: Protection = .readWrite, huge: Bool = false) throws {
        try space.map(region(range), protection: protection, kind: .anonymous(huge: huge))
    }

    func touch(_ range: Range<Int>, write: Bool = true) throws {
        for page in range {
            let address = Self.base.advanced(by: page).address
            if write { try cpu.store(UInt64(page) + 1, at: address) } else { _ = try cpu.load(address) }
        }
    }

    /// One round of a range fault.
    @discardableResult
    func fault(_ range: inout HMMRange) throws(HMMError) -> RangeFaultOutcome {
        range.sequence = interval.readBegin()
        space.lockForReading()
        defer { space.unlockForReading() }
        return try space.rangeFault(&range)
    }

    /// Rounds until one is not voided by its own faults.
    func fault(_ range: Range<Int>, _ request: HMMPageRequest = []) throws(HMMError) -> HMMRange {
        var result = HMMRange(interval, region(range))
        result.defaultRequest = request
        while try fault(&result) == .sequenceMoved {}
        return result
    }

    /// One letter a page: `.` nothing, `r` and `w` 4 KiB, `R` and `W` in a huge leaf, `E` error.
    func letters(_ range: Range<Int>, _ request: HMMPageRequest = []) throws(HMMError) -> String {
        let result = try fault(range, request)
        return Self.letters(result)
    }

    static func letters(_ range: borrowing HMMRange) -> String {
        var text = ""
        for index in 0..<range.pages.pageCount {
            let page = range[index]
            if page.isError { text += "E" }
            else if !page.isValid { text += "." }
            else if page.order > 0 { text += page.isWritable ? "W" : "R" }
            else { text += page.isWritable ? "w" : "r" }
        }
        return text
    }
}
