import HMM
import Synchronization

/// A machine with one address space, and what the rows do with it.
struct BenchProcess {
    let machine: Machine
    let space: AddressSpace
    /// Aligned to 1 GiB, so that the tables of a range are its own.
    static let base = PageNumber(1 << 24)

    /// - Parameter pages: the most system memory that the row touches.
    init(pages: Int, profile: KernelProfile = .linux6_12) throws {
        var configuration = MachineConfiguration()
        configuration.profile = profile
        configuration.systemMemoryBytes = max(64 << 20, pages * Geometry.pageSizeBytes + (16 << 20))
        machine = try Machine(configuration)
        space = try machine.makeAddressSpace()
    }

    static func range(_ count: Int, at offset: Int = 0) -> PageRange {
        base.advanced(by: offset)..<base.advanced(by: offset + count)
    }

    /// Maps anonymous memory and writes its number into every page.
    func mapWritten(_ pages: PageRange, huge: Bool? = false) throws {
        try space.map(pages, protection: .readWrite, kind: .anonymous(huge: huge))
        try write(pages)
    }

    /// Writes the number of each page into its first word.
    func write(_ pages: PageRange) throws {
        let cpu = space.makeCPU()
        defer { space.removeCPU(cpu) }
        for page in pages { try cpu.store(page.raw, at: page.address) }
    }

    /// The sum of the first words.
    func sum(_ pages: PageRange) throws -> UInt64 {
        let cpu = space.makeCPU()
        defer { space.removeCPU(cpu) }
        var sum: UInt64 = 0
        for page in pages { sum &+= try cpu.load(page.address) }
        return sum
    }

    /// What `sum` must answer after `write`.
    static func writtenSum(_ pages: PageRange) -> UInt64 {
        pages.reduce(0) { $0 &+ $1.raw }
    }

    /// Ends the process. Nothing may be left over.
    func finish() throws {
        space.exit()
        let complaints = machine.checkInvariants()
        guard complaints.isEmpty else { throw BenchFailure("invariants are broken: \(complaints[0])") }
    }
}

/// The monotonic time between two points.
func nanoseconds(_ body: () throws -> Void) rethrows -> UInt64 {
    let begin = SyncClock.now()
    try body()
    return SyncClock.now() - begin
}

func expect(_ condition: Bool, _ complaint: String) throws {
    if !condition { throw BenchFailure("a wrong result: \(complaint)") }
}
