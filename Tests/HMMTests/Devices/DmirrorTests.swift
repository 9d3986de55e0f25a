import Testing

@testable import HMM

/// A machine, one process and the first devices of the recordings.
final class DmirrorFixture {
    let machine: Machine
    let space: AddressSpace
    let cpu: CPU
    let devices: [DmirrorDevice]
    let mirrors: [DmirrorMirror]
    static let base = PageNumber(0x1_000_000)

    init(_ profile: KernelProfile = .linux6_12) throws {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = 128 << 20
        configuration.profile = profile
        let machine = try Machine(configuration)
        self.machine = machine
        let space = try machine.makeAddressSpace()
        self.space = space
        cpu = space.makeCPU()
        devices = try [.private, .private, .coherent, .coherent].enumerated().map { (index, kind) in
            try DmirrorDevice(machine: machine, name: "dev\(index)", kind: kind, index: index)
        }
        mirrors = try devices.map { try $0.open(space) }
    }

    deinit {
        mirrors.forEach { $0.close() }
        space.exit()
    }

    func pages(_ range: Range<Int>) -> PageRange {
        Self.base.advanced(by: range.lowerBound)..<Self.base.advanced(by: range.upperBound)
    }
    func map(_ range: Range<Int>, _ protection: Protection = .readWrite) throws {
        try space.map(pages(range), protection: protection, kind: .anonymous(huge: false))
    }
    func cpuWrite(_ range: Range<Int>, _ value: UInt64) throws {
        for page in range { try cpu.store(value, at: Self.base.advanced(by: page).address) }
    }
    func cpuRead(_ page: Int) throws -> UInt64 { try cpu.load(Self.base.advanced(by: page).address) }

    /// Reads, and gives the first word of each page and the number of faults.
    func read(_ range: Range<Int>, _ mirror: Int = 0) throws(HMMError) -> ([UInt64], faults: Int) {
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: range.count * 512)
        defer { words.deallocate() }
        let counts = try mirrors[mirror].read(pages(range), into: words)
        #expect(counts.pages == range.count)
        return ((0..<range.count).map { words[$0 * 512] }, counts.faults)
    }

    func write(_ range: Range<Int>, _ value: UInt64, _ mirror: Int = 0) throws(HMMError) -> Int {
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: range.count * 512)
        words.initialize(repeating: value)
        defer { words.deallocate() }
        let counts = try mirrors[mirror].write(pages(range), from: UnsafeBufferPointer(words))
        #expect(counts.pages == range.count)
        return counts.faults
    }

    func snapshot(_ range: Range<Int>, _ mirror: Int = 0) throws(HMMError) -> String {
        try mirrors[mirror].snapshot(pages(range)).map { $0 < 16 ? "0\(String($0, radix: 16))" : String($0, radix: 16) }
            .joined(separator: " ")
    }
}

/// Aim: the reference driver answers as the one of Linux 6.12 does, for all requests that need no migration.
@Suite("The reference driver")
struct DmirrorTests {
    @Test("first read: zero pages, one fault, and none the second time")
    func firstRead() throws {
        let f = try DmirrorFixture()
        try f.map(0..<4)
        #expect(try f.snapshot(0..<5) == "00 00 00 00 ff")
        let first = try f.read(0..<4)
        #expect(first.0 == [0, 0, 0, 0] && first.faults == 1)
        #expect(try f.snapshot(0..<4) == "11 11 11 11")
        #expect(try f.read(0..<4).faults == 0)
        try f.cpuWrite(2..<3, 7)
        let again = try f.read(0..<4)
        #expect(again.0 == [0, 0, 7, 0] && again.faults == 1, "copy-on-write cleared the entry")
        #expect(try f.snapshot(0..<4) == "11 11 02 11")
    }

    @Test("W2: an invalidation also erases the entry behind its range", arguments: [KernelProfile.linux6_12, .next])
    func pageBehind(profile: KernelProfile) throws {
        let f = try DmirrorFixture(profile)
        try f.map(0..<4)
        _ = try f.read(0..<4)
        try f.cpuWrite(1..<2, 7)
        #expect(try f.read(2..<3).faults == (profile == .linux6_12 ? 1 : 0))
        #expect(try f.read(3..<4).faults == 0)
    }

    @Test("device writes reach the CPU, and the CPU's the device")
    func writes() throws {
        let f = try DmirrorFixture()
        try f.map(0..<3)
        #expect(try f.write(0..<3, 5) == 1)
        #expect(try f.cpuRead(1) == 5)
        #expect(try f.write(0..<3, 6) == 0)
        try f.cpuWrite(1..<2, 9)
        #expect(try f.read(0..<3).0 == [6, 9, 6])
        #expect(try f.snapshot(0..<3) == "02 02 02")
        #expect(try f.read(0..<3, 1).faults == 1)
    }

    @Test("errors come in the order of addresses, and a write does what it can before")
    func errors() throws {
        let f = try DmirrorFixture()
        try f.map(0..<2, .read)
        try f.map(4..<6)
        #expect(throws: HMMError(.notPermitted)) { try f.write(0..<6, 1) }
        #expect(throws: HMMError(.badAddress)) { try f.read(0..<6) }
        #expect(try f.snapshot(0..<6) == "11 11 ff ff 00 00")
        #expect(throws: HMMError(.badAddress)) { try f.write(3..<6, 1) }
        #expect(try f.write(4..<5, 1) == 1)
        #expect(throws: HMMError(.badAddress)) { try f.write(4..<7, 2) }
        #expect(try f.cpuRead(4) == 2, "the page with an entry was written")
        try f.space.protect(f.pages(0..<2), .none)
        #expect(throws: HMMError(.badAddress)) { try f.write(0..<2, 1) }
        #expect(throws: HMMError(.invalidArgument)) { try f.read(3..<3) }
    }

    @Test("two mappings, the second read-only: the first is faulted in, nothing of it written")
    func twoMappings() throws {
        let f = try DmirrorFixture()
        try f.map(0..<2)
        try f.map(2..<4, .read)
        #expect(throws: HMMError(.notPermitted)) { try f.write(0..<4, 3) }
        #expect(try f.snapshot(0..<4) == "02 02 00 00")
        #expect(try f.cpuRead(0) == 0)
    }

    @Test("shared memory: fault-around maps sixteen pages")
    func faultAround() throws {
        let f = try DmirrorFixture()
        try f.space.map(f.pages(0..<40), protection: .readWrite, kind: .sharedAnonymous)
        try f.cpuWrite(0..<40, 1)
        try f.space.advise(f.pages(0..<40), .dontneed)
        _ = try f.read(20..<21)
        let bytes = try f.mirrors[0].snapshot(f.pages(0..<40))
        let expected = [(0, 16), (2, 16), (0, 8)].flatMap { [UInt8](repeating: $0.0, count: $0.1) }
        #expect(bytes == expected)
    }

    @Test("swap: a device read brings pages back writable when nobody shares them")
    func swap() throws {
        let f = try DmirrorFixture()
        try f.map(0..<4)
        try f.cpuWrite(0..<4, 1)
        try f.space.advise(f.pages(0..<4), .pageout)
        #expect(try f.snapshot(0..<4) == "00 00 00 00")
        let read = try f.read(0..<4)
        #expect(read.0 == [1, 1, 1, 1] && read.faults == 1)
        #expect(try f.snapshot(0..<4) == "02 02 02 02")
    }

    @Test("a fork leaves entries of mappings that it does not copy, and a child has its own mirrors")
    func fork() throws {
        let f = try DmirrorFixture()
        try f.map(0..<4)
        _ = try f.cpuRead(0)
        _ = try f.read(0..<4)
        let child = try f.space.fork()
        #expect(try f.read(0..<4).faults == 0, "only ever read: not copied, not notified")
        let mirror = try f.devices[0].open(child)
        #expect(try mirror.snapshot(f.pages(0..<4)) == [0, 0, 0, 0])
        mirror.close()
        child.exit()
        try f.cpuWrite(0..<4, 2)
        _ = try f.read(0..<4)
        let second = try f.space.fork()
        #expect(try f.read(0..<4).faults == 1)
        #expect(try f.snapshot(0..<4) == "01 01 01 01")
        second.exit()
    }

    @Test("an exit leaves an empty mirror that answers with errors")
    func exit() throws {
        let f = try DmirrorFixture()
        let child = try f.space.fork()
        let mirror = try f.devices[1].open(child)
        try child.map(f.pages(0..<2), protection: .readWrite, kind: .anonymous())
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 1024)
        defer { words.deallocate() }
        _ = try mirror.read(f.pages(0..<2), into: words)
        #expect(mirror.table.statistics.mappedPages == 2)
        child.exit()
        #expect(mirror.table.statistics.mappedPages == 0)
        #expect(throws: HMMError(.badAddress)) { _ = try mirror.read(f.pages(0..<2), into: words) }
        #expect(throws: HMMError(.invalidArgument)) { _ = try mirror.snapshot(f.pages(0..<2)) }
        mirror.close()
        #expect(throws: HMMError(.invalidArgument)) { _ = try f.devices[1].open(child) }
    }

    @Test("INV-DM-1: requests leave no interval, lock or reference behind")
    func nothingLeft() throws {
        let f = try DmirrorFixture()
        try f.map(0..<100)
        let subscriptions = f.space.notifiers.subscriptionCount
        _ = try f.read(0..<100)
        _ = try f.write(0..<100, 4)
        _ = try f.snapshot(0..<100)
        #expect(throws: HMMError(.badAddress)) { try f.read(90..<110) }
        #expect(f.space.notifiers.subscriptionCount == subscriptions)
        #expect(f.space.notifiers.checkInvariants().isEmpty)
        let isLocked = f.mirrors[0].mutex.isLocked || f.space.mmapLock.isLocked
        #expect(SyncThread.heldLockCount == 0 && !isLocked)
        for mirror in f.mirrors { #expect(mirror.table.checkInvariants().isEmpty) }
    }

    @Test("INV-DM-3: each entry names the frame that the CPU's entry names")
    func entriesAgree() throws {
        let f = try DmirrorFixture()
        try f.map(0..<64)
        try f.cpuWrite(0..<32, 1)
        _ = try f.read(0..<64)
        try f.cpuWrite(10..<40, 2)
        try f.space.protect(f.pages(5..<8), .read)
        for page in 0..<64 {
            guard let entry = f.mirrors[0].table.lookup(f.pages(page..<page + 1).lowerBound) else { continue }
            let leaf = try #require(f.space.leaf(f.pages(page..<page + 1).lowerBound))
            #expect(entry.frame == leaf.0.frame && (!entry.isWritable || leaf.0.isWritable), "INV-DM-4")
        }
    }

    /// Runs `body` with room for the words of `count` pages.
    private func withWords<R>(_ count: Int, _ body: (UnsafeMutableBufferPointer<UInt64>) throws -> R) rethrows -> R {
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: count * 512)
        defer { words.deallocate() }
        return try body(words)
    }

    @Test("migrate, CPU touch, evict: the worked example of the reference", arguments: [0, 2])
    func migrateAndBack(_ device: Int) throws {
        let f = try DmirrorFixture()
        let isPrivate = device == 0
        let mirror = f.mirrors[device]
        try f.map(0..<4)
        try f.cpuWrite(0..<4, 7)
        let answer = try withWords(4) { try mirror.migrate(f.pages(0..<4), into: $0) }
        #expect(answer.pages == 4 && answer.moved == 4)
        #expect(try mirror.snapshot(f.pages(0..<4)) == Array(repeating: isPrivate ? 0x22 : 0x42, count: 4))
        #expect(f.devices[device].memory.usedFrames == 4)
        #expect(try f.cpuRead(2) == 7)
        // A CPU brings a private page home; coherent memory it can read where it is.
        #expect(f.devices[device].memory.usedFrames == (isPrivate ? 3 : 4))
        #expect(f.machine.checkInvariants() == [])
        #expect(try mirror.evict(f.pages(0..<4)) == (isPrivate ? 3 : 4))
        #expect(f.devices[device].memory.usedFrames == 0)
        #expect(try mirror.snapshot(f.pages(0..<4)) == Array(repeating: 2, count: 4))
        for page in 0..<4 { #expect(try f.cpuRead(page) == 7) }
        #expect(f.machine.checkInvariants() == [])
    }

    @Test("INV-DM-6: after release and after the last close no frame of the device is used", arguments: [true, false])
    func releaseAndClose(_ byRelease: Bool) throws {
        let f = try DmirrorFixture()
        try f.map(0..<8)
        try f.cpuWrite(0..<8, 3)
        let extra = try f.devices[1].open(f.space)
        _ = try withWords(8) { try extra.migrate(f.pages(0..<8), into: $0) }
        #expect(f.devices[1].memory.usedFrames == 8)
        if byRelease { try f.devices[1].release() }
        extra.close()
        #expect(f.devices[1].memory.usedFrames == 0)
        for page in 0..<8 { #expect(try f.cpuRead(page) == 3) }
        #expect(f.machine.checkInvariants() == [])
    }

    @Test("exclusive and check-exclusive, until the CPU touches", arguments: [KernelProfile.linux6_12, .next])
    func exclusive(_ profile: KernelProfile) throws {
        let f = try DmirrorFixture(profile)
        try f.map(0..<3)
        try f.cpuWrite(0..<3, 1)
        let mirror = f.mirrors[0]
        #expect(try withWords(3) { try mirror.exclusive(f.pages(0..<3), into: $0) } == 3)
        #expect(try mirror.snapshot(f.pages(0..<3)) == [0, 0, 0])
        #expect(throws: HMMError(.notPermitted)) { try mirror.checkExclusive(f.pages(0..<3)) }
        #expect(try f.cpuRead(0) == 1)
        // W2: 6.12 also forgets the page behind the one that was touched.
        if profile == .linux6_12 {
            try mirror.checkExclusive(f.pages(0..<2))
        } else {
            #expect(throws: HMMError(.notPermitted)) { try mirror.checkExclusive(f.pages(1..<2)) }
        }
        #expect(throws: HMMError(.notPermitted)) { try mirror.checkExclusive(f.pages(2..<3)) }
        #expect(f.machine.checkInvariants() == [])
    }

    @Test("INV-EX-11: a request that fails leaves no page exclusive")
    func failedExclusive() throws {
        let f = try DmirrorFixture(.next)
        try f.map(0..<4)
        try f.cpuWrite(0..<4, 1)
        try f.space.protect(f.pages(3..<4), .read)
        #expect(throws: HMMError(.badAddress)) {
            try withWords(4) { _ = try f.mirrors[0].exclusive(f.pages(0..<4), into: $0) }
        }
        #expect(try f.mirrors[0].snapshot(f.pages(0..<4)) == [2, 2, 2, 1])
        try f.mirrors[0].checkExclusive(f.pages(0..<4))
        #expect(f.machine.checkInvariants() == [])
    }

    @Test("a page that is discarded while it moves is not mapped afterwards")
    func discardedWhileMoving() throws {
        for seed in 1...120 as ClosedRange<UInt64> {
            let f = try DmirrorFixture()
            try f.map(0..<2)
            try f.cpuWrite(0..<2, 7)
            let mirror = f.mirrors[0]
            nonisolated(unsafe) let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 2 * 512)
            defer { words.deallocate() }
            let ended = RandomScheduler.run(
                seed: seed,
                [
                    { _ = try? mirror.migrate(f.pages(0..<2), into: words) },
                    { try? f.space.advise(f.pages(0..<1), .dontneed) },
                ])
            #expect(ended == nil, "seed \(seed)")
            #expect(mirror.checkInvariants() == [], "seed \(seed)")
            #expect(f.machine.checkInvariants() == [], "seed \(seed)")
        }
    }

    @Test("R1: device and CPU write to one page beside mprotect and munmap; values stay whole")
    func race() throws {
        let f = try DmirrorFixture()
        try f.map(0..<8)
        let (space, mirror, all) = (f.space, f.mirrors[0], f.pages(0..<8))
        withThreads(4) { index in
            let cpu = space.makeCPU()
            let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 8 * 512)
            for round in 0..<200 as Range<UInt64> {
                switch index {
                case 0: for page in all { try? cpu.store(round, at: page.address) }
                case 1:
                    words.initialize(repeating: round)
                    _ = try? mirror.write(all, from: UnsafeBufferPointer(words))
                case 2:
                    _ = try? mirror.read(all, into: words)
                    _ = try? mirror.snapshot(all)
                default:
                    try? space.protect(all, .read)
                    try? space.protect(all, .readWrite)
                    if round % 10 == 0 {
                        try? space.unmap(all)
                        try? space.map(all, protection: .readWrite, kind: .anonymous(huge: false))
                    }
                }
            }
            words.deallocate()
            space.removeCPU(cpu)
        }
        #expect(space.notifiers.checkInvariants().isEmpty)
        #expect(mirror.table.checkInvariants().isEmpty)
    }
}
