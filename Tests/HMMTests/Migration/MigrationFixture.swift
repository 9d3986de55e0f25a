import Synchronization
import Testing

@testable import HMM

/// Counts the lives of frames that ended.
final class FreedFrames: Sendable {
    private let lives = Mutex<[FrameNumber: Int]>([:])
    func note(_ frame: FrameNumber) { lives.withLock { $0[frame, default: 0] += 1 } }
    var count: Int { lives.withLock { $0.values.reduce(0, +) } }
}

/// A device that has memory and no mirror: brings pages back when a CPU wants them.
final class MemoryOnlyDevice: DevicePrivateFaultHandler, @unchecked Sendable {
    let memory: DeviceMemory
    let owner: NotifierOwner
    let window: Int
    let freed = FreedFrames()

    init(_ machine: Machine, _ kind: DeviceMemoryKind, owner: UInt32, pages: Int, window: Int = 1) {
        memory = DeviceMemory(
            kind: kind, owner: owner, limitBytes: pages * Geometry.pageSizeBytes, frames: machine.frames)
        self.owner = NotifierOwner(device: owner, mirror: 1)
        self.window = window
        memory.freed = { [freed] in freed.note($0) }
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        try space.bringHome(page, frame, from: memory, owner: owner, window: window)
    }
}

extension DeviceMemoryKind: CustomTestStringConvertible {
    public var testDescription: String { self == .private ? "private" : "coherent" }
}

/// One process and two devices of one kind.
struct MigrationFixture {
    let base: Fixture
    let first: MemoryOnlyDevice
    let second: MemoryOnlyDevice

    var machine: Machine { base.machine }
    var space: AddressSpace { base.space }
    var frames: FrameTable { base.machine.frames }

    init(
        _ kind: DeviceMemoryKind = .private, _ profile: KernelProfile = .next, devicePages: Int = 4096,
        window: Int = 1, _ configure: (inout MachineConfiguration) -> Void = { _ in }
    ) throws {
        base = try Fixture {
            $0.profile = profile
            configure(&$0)
        }
        first = MemoryOnlyDevice(base.machine, kind, owner: 1, pages: devicePages, window: window)
        second = MemoryOnlyDevice(base.machine, kind, owner: 2, pages: devicePages, window: window)
        base.machine.setPrivateFaultHandler(first, for: first.memory)
        base.machine.setPrivateFaultHandler(second, for: second.memory)
    }

    func pages(_ range: Range<Int>) -> PageRange { base.pages(range) }

    func map(_ range: Range<Int>, _ protection: Protection = .readWrite, huge: Bool? = nil) throws {
        try space.map(pages(range), protection: protection, kind: .anonymous(huge: huge))
    }

    /// Moves the range to a device and answers what came of it.
    @discardableResult
    func send(
        _ range: Range<Int>, to device: MemoryOnlyDevice? = nil, from sources: [DeviceMemory] = [],
        evicting: Bool = false, fault: HMMPageRequest = []
    ) throws -> MigrationSummary {
        let device = device ?? first
        return try space.prefetch(
            pages(range), to: device.memory, from: sources, owner: device.owner, evicting: evicting, fault: fault)
    }

    @discardableResult
    func fetch(_ range: Range<Int>, from device: MemoryOnlyDevice? = nil) throws -> MigrationSummary {
        let device = device ?? first
        return try space.evict(pages(range), from: device.memory, owner: device.owner)
    }

    /// One migration with the mmap lock held.
    func withMigration<Result>(
        _ range: Range<Int>, _ request: MigrationRequest, _ body: (borrowing Migration) throws(HMMError) -> Result
    ) throws(HMMError) -> Result {
        space.lockForReading()
        defer { space.unlockForReading() }
        return try space.withMigration(pages(range), request, body)
    }

    /// A request for everything of system memory, by the first device.
    var toFirst: MigrationRequest { .toDevice(first.memory, owner: first.owner) }
    var fromFirst: MigrationRequest { .toSystem(from: first.memory, owner: first.owner) }

    /// The entry of a page and its level.
    func entry(_ index: Int) -> PageTableEntry? { space.leaf(pages(index..<index + 1).lowerBound)?.0 }

    /// Where each page is, a letter a page: `.` nothing, `z` zeros, `s` system, `1` and `2` the devices, `S` swapped,
    /// `x` exclusive; `m` would be a migration entry.
    func layout(_ range: Range<Int>, in space: AddressSpace? = nil) -> String {
        String(range.map { index in letter((space ?? self.space).leaf(pages(index..<index + 1).lowerBound)?.0) })
    }

    private func letter(_ entry: PageTableEntry?) -> Character {
        guard let entry, !entry.isNone, !entry.isTable else { return "." }
        if entry.isPresent { return entry.isSpecial ? "z" : place(entry.frame) }
        switch entry.softLeaf!.kind {
        case .swap: return "S"
        case .migration: return "m"
        case .devicePrivate: return place(entry.frame)
        case .deviceExclusive: return "x"
        case .poison: return "p"
        case .marker: return "k"
        }
    }

    private func place(_ frame: FrameNumber) -> Character {
        first.memory.contains(frame) ? "1" : second.memory.contains(frame) ? "2" : "s"
    }

    /// Whether the entry of a page lets a device or CPU write.
    func isWritable(_ index: Int) -> Bool {
        guard let entry = entry(index) else { return false }
        return entry.isWritable || (entry.softLeaf?.kind == .devicePrivate && entry.softLeaf!.isWriteKind)
    }

    func checkInvariants(_ location: SourceLocation = #_sourceLocation) {
        base.checkInvariants(location)
        for device in [first, second] {
            let counts = device.memory.counts
            #expect(counts.allocations - counts.releases == UInt64(device.memory.usedFrames), sourceLocation: location)
        }
    }

    func finish(_ location: SourceLocation = #_sourceLocation) {
        checkInvariants(location)
        base.finish()
        for device in [first, second] {
            #expect(device.memory.usedFrames == 0, "a device frame was lost", sourceLocation: location)
            base.machine.setPrivateFaultHandler(nil, for: device.memory)
        }
    }
}
