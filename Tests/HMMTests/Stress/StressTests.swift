import Foundation
import Synchronization
import Testing

@testable import HMM

/// Four CPU threads and two devices at random on one address space. Every value read is checked against what may
/// legally be seen; at the end nothing is lost, and nothing is left over after exit.
///
/// `HMM_SEED` and `HMM_STRESS_OPERATIONS` set the seed and the number of operations.
@Suite("Stress", .serialized)
struct StressTests {
    static let seed = ProcessInfo.processInfo.environment["HMM_SEED"].flatMap { UInt64($0) } ?? 20_250_130
    static let operations =
        ProcessInfo.processInfo.environment["HMM_STRESS_OPERATIONS"].flatMap { Int($0) } ?? 200_000

    @Test(arguments: [KernelProfile.linux6_12, .next])
    func everybodyAtOnce(_ profile: KernelProfile) throws {
        print("stress: HMM_SEED=\(Self.seed) HMM_STRESS_OPERATIONS=\(Self.operations) kernel \(profile.name)")
        let run = try StressRun(profile: profile, seed: Self.seed)
        run.play(Self.operations)
        run.verify()
        try run.finish()
    }
}

final class StressRun: @unchecked Sendable {
    // Immutable but for `failures`, which `lock` guards.
    let machine: Machine
    let space: AddressSpace
    let cpus: [CPU]
    let devices: [SoftwareDevice]
    let regions: [StressRegion]
    let ledger: StressLedger
    let seed: UInt64
    private let lock = SpinLock(.leaf)
    private var failures: [String] = []
    static let cpuThreads = 4

    init(profile: KernelProfile, seed: UInt64) throws {
        self.seed = seed
        var configuration = MachineConfiguration()
        configuration.profile = profile
        machine = try Machine(configuration)
        space = try machine.makeAddressSpace()
        let kinds: [(String, Int, Bool, @Sendable () -> MappingKind)] = [
            ("anonymous", 64, false, { .anonymous() }),
            ("shared", 48, false, { .sharedAnonymous }),
            ("huge", 1024, false, { .anonymous(huge: true) }),
            ("moving", 24, false, { .anonymous() }),
            ("discarded", 32, true, { .anonymous() }),
            ("remapped", 16, true, { .anonymous() }),
        ]
        var first = 0
        var regions: [StressRegion] = []
        for (i, kind) in kinds.enumerated() {
            let base = PageNumber(UInt64(i + 4) << 18)
            regions.append(
                StressRegion(kind.0, kind.1, firstPage: first, base: base, isVolatile: kind.2, kind: kind.3))
            first += kind.1
        }
        self.regions = regions
        for region in regions { try space.map(region.pages, protection: .readWrite, kind: region.kind()) }
        let space = space
        cpus = (0..<Self.cpuThreads).map { _ in space.makeCPU() }
        devices = try (0..<2).map { try SoftwareDevice.attach(to: space, index: 40 + $0) }
        ledger = StressLedger(pages: first, actors: Self.cpuThreads + 2)
    }

    func fail(_ text: @autoclosure () -> String) {
        let text = text()
        lock.withLock { if failures.count < 20 { failures.append(text) } }
    }

    // MARK: Playing

    func play(_ operations: Int) {
        let share = operations / ledger.actors
        let threads = (0..<ledger.actors).map { actor in
            SyncThread.spawn(name: "actor \(actor)") { [self] in
                var random = SeededRandom(seed &+ UInt64(actor) &* 7919)
                for _ in 0..<share { step(actor, &random) }
                if SyncThread.heldLockCount != 0 { fail("actor \(actor) ends with locks held") }
            }
        }
        for thread in threads { thread.join() }
    }

    private func step(_ actor: Int, _ random: inout SeededRandom) {
        let region = regions[random.below(regions.count)]
        let i = random.below(region.pageCount)
        switch random.below(100) {
        case ..<45: read(region, i, by: actor, writer: random.below(ledger.actors))
        case ..<85: write(region, i, by: actor)
        default: actor < Self.cpuThreads ? change(actor, region, &random) : deviceChange(actor, region, &random)
        }
    }

    private func load(_ page: PageNumber, _ word: Int, by actor: Int) -> UInt64? {
        let address = VirtualAddress(page.address.raw + UInt64(word * 8))
        return actor < Self.cpuThreads
            ? try? cpus[actor].load(address) : try? devices[actor - Self.cpuThreads].load(address)
    }

    private func store(_ value: UInt64, _ page: PageNumber, _ word: Int, by actor: Int) -> Bool {
        let address = VirtualAddress(page.address.raw + UInt64(word * 8))
        return actor < Self.cpuThreads
            ? (try? cpus[actor].store(value, at: address)) != nil
            : (try? devices[actor - Self.cpuThreads].store(value, at: address)) != nil
    }

    private func read(_ region: StressRegion, _ i: Int, by actor: Int, writer: Int) {
        let number = region.firstPage + i
        let low = ledger.low(number, writer)
        guard let value = load(region.page(i), ledger.word(of: writer), by: actor) else { return }
        let high = ledger.high(number, writer)
        if value > high || (!region.isVolatile && value < low) {
            fail("actor \(actor) read \(value) of actor \(writer) in \(region.name)[\(i)], not within \(low)...\(high)")
        }
    }

    private func write(_ region: StressRegion, _ i: Int, by actor: Int) {
        let number = region.firstPage + i
        let value = ledger.begin(number, actor)
        if store(value, region.page(i), ledger.word(of: actor), by: actor) { ledger.end(number, actor, value) }
    }

    // MARK: Changes of the address space

    private func change(_ actor: Int, _ region: StressRegion, _ random: inout SeededRandom) {
        switch random.below(10) {
        case 0: try? space.protect(region.part(&random), .read)
        case 1, 2: try? space.protect(region.part(&random), .readWrite)
        case 3: try? space.advise(region.part(&random), .pageout)
        case 4: try? space.advise(region.part(&random), random.below(2) == 0 ? .populateRead : .populateWrite)
        case 5: fork(region, &random)
        case 6: pin(region, &random)
        case 7: discard(regions[4], &random)
        case 8: replace(regions[5])
        default: random.below(2) == 0 ? move(regions[3]) : collapse(regions[2])
        }
    }

    private func discard(_ region: StressRegion, _ random: inout SeededRandom) {
        try? space.advise(region.part(&random), .dontneed)
    }

    private func collapse(_ region: StressRegion) { try? space.advise(region.pages, .collapse) }

    /// Unmaps the region and maps it anew; an access meanwhile finds nothing there.
    private func replace(_ region: StressRegion) {
        guard region.change.tryLock() else { return }
        defer { region.change.unlock() }
        try? space.unmap(region.pages)
        try? space.map(region.pages, protection: .readWrite, kind: region.kind())
    }

    /// Moves the region to its other place and back.
    private func move(_ region: StressRegion) {
        guard region.change.tryLock() else { return }
        defer { region.change.unlock() }
        try? space.protect(region.pages, .readWrite)
        let old = region.page(0)
        let new = PageNumber(old.raw ^ (1 << 24))
        guard (try? space.remap(region.pages, to: new)) != nil else { return }
        region.base.store(new.raw, ordering: .releasing)
    }

    private func pin(_ region: StressRegion, _ random: inout SeededRandom) {
        let page = region.page(random.below(region.pageCount))
        space.lockForReading()
        let frame = try? space.reference(page, [.write, .pin])
        space.unlockForReading()
        if let frame { space.release(frame, [.write, .pin]) }
    }

    /// A child sees every page as it was at some moment of the fork.
    private func fork(_ region: StressRegion, _ random: inout SeededRandom) {
        let samples = (0..<6).map { _ in (random.below(region.pageCount), random.below(ledger.actors)) }
        let isMoving = region.name == "moving"
        if isMoving, !region.change.tryLock() { return }
        defer { if isMoving { region.change.unlock() } }
        let lows = samples.map { ledger.low(region.firstPage + $0.0, $0.1) }
        guard let child = try? space.fork() else { return fail("fork failed") }
        let cpu = child.makeCPU()
        for (sample, low) in zip(samples, lows) {
            let address = VirtualAddress(region.page(sample.0).address.raw + UInt64(ledger.word(of: sample.1) * 8))
            guard let value = try? cpu.load(address) else { continue }
            let high = ledger.high(region.firstPage + sample.0, sample.1)
            if value > high || (!region.isVolatile && value < low) {
                fail("a child read \(value) in \(region.name)[\(sample.0)], not within \(low)...\(high)")
            }
        }
        child.removeCPU(cpu)
        child.exit()
    }

    private func deviceChange(_ actor: Int, _ region: StressRegion, _ random: inout SeededRandom) {
        let device = devices[actor - Self.cpuThreads]
        _ = try? device.fault(region.part(&random), random.below(2) == 0 ? .read : .write)
    }

    // MARK: The end

    /// Everything that was written is there, for each CPU and each device.
    func verify() {
        for region in regions {
            try? space.protect(region.pages, .readWrite)
            guard !region.isVolatile else { continue }
            for i in 0..<region.pageCount {
                for writer in 0..<ledger.actors {
                    let expected = ledger.low(region.firstPage + i, writer)
                    for reader in [0, Self.cpuThreads, Self.cpuThreads + 1] {
                        let value = load(region.page(i), ledger.word(of: writer), by: reader)
                        if value != expected {
                            let found = "\(String(describing: value)) of actor \(writer)"
                            fail("in the end \(region.name)[\(i)] has \(found), not \(expected)")
                        }
                    }
                }
            }
        }
        let faults = machine.checkInvariants()
        #expect(faults == [], "HMM_SEED=\(seed)")
        #expect(failures == [], "HMM_SEED=\(seed)")
    }

    func finish() throws {
        for device in devices { device.detach() }
        for cpu in cpus { space.removeCPU(cpu) }
        space.exit()
        #expect(machine.checkInvariants() == [])
        #expect(machine.frames.system.usedFrames == 0)
        #expect(machine.tables.usedTables == 0)
        #expect(machine.swap.usedSlots == 0)
        #expect(machine.anonVMAs.live == 0)
    }
}
