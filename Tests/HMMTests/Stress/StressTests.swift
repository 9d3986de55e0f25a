import Foundation
import Synchronization
import Testing

@testable import HMM

/// Four CPU threads and two devices with little memory at random on one address space: accesses, atomics from both
/// sides, migration, eviction, huge pages. Every value read is checked against what may legally be seen; at the end
/// nothing is lost, every counter has its sum, and nothing is left over after exit.
///
/// `HMM_SEED` and `HMM_STRESS_OPERATIONS` set the seed and the number of operations of all runs together.
@Suite("Stress", .serialized)
struct StressTests {
    static let seed = ProcessInfo.processInfo.environment["HMM_SEED"].flatMap { UInt64($0) } ?? 20_250_130
    static let operations =
        ProcessInfo.processInfo.environment["HMM_STRESS_OPERATIONS"].flatMap { Int($0) } ?? 200_000

    static let runs: [(KernelProfile, [DeviceMemoryKind])] = [
        (.linux6_12, [.private, .coherent]), (.next, [.private, .coherent]), (.next, [.private, .private]),
    ]

    @Test(arguments: runs)
    func everybodyAtOnce(_ profile: KernelProfile, _ kinds: [DeviceMemoryKind]) throws {
        print("stress: HMM_SEED=\(Self.seed) HMM_STRESS_OPERATIONS=\(Self.operations) kernel \(profile.name) \(kinds)")
        let run = try StressRun(profile: profile, seed: Self.seed, kinds: kinds)
        run.play(Self.operations / Self.runs.count)
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
    let activity = ExclusiveActivity()
    private let lock = SpinLock(.leaf)
    private var failures: [String] = []
    static let cpuThreads = 4
    /// Less than the huge region has, so that devices are full.
    static let deviceMemoryBytes = 3 << 20

    init(profile: KernelProfile, seed: UInt64, kinds deviceKinds: [DeviceMemoryKind]) throws {
        self.seed = seed
        var configuration = MachineConfiguration()
        configuration.profile = profile
        machine = try Machine(configuration)
        space = try machine.makeAddressSpace()
        let kinds: [(String, Int, Bool, @Sendable () -> MappingKind)] = [
            ("anonymous", 64, false, { .anonymous() }),
            ("shared", 1024, false, { .sharedAnonymous }),
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
        let (space, machine) = (space, machine)
        cpus = (0..<Self.cpuThreads).map { _ in space.makeCPU() }
        let activity = activity
        space.exclusiveObserver = activity
        devices = try deviceKinds.enumerated().map { index, kind in
            try SoftwareDevice.attach(
                to: space, index: 40 + index,
                memory: SoftwareDeviceMemory(on: machine, kind, sizeBytes: Self.deviceMemoryBytes),
                placement: index == 0 ? .whenContended(activity) : .never)
        }
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
        case ..<80: write(region, i, by: actor)
        case ..<90: count(regions[Self.countedRegions[random.below(3)]], random.below(16), by: actor, &random)
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

    // MARK: Counters

    /// Those in which a page may be exclusive: private and anonymous, and never discarded.
    static let countedRegions = [0, 2, 3]
    /// Behind the words of the actors.
    static let counterWord = 200

    /// Adds to the counter of one of the first pages, which all actors have in common.
    ///
    /// Half of the additions of devices are a load and a store: nobody may come between.
    private func count(_ region: StressRegion, _ i: Int, by actor: Int, _ random: inout SeededRandom) {
        let page = region.page(i)
        let address = VirtualAddress(page.address.raw + UInt64(Self.counterWord * 8))
        let amount = UInt64(1 + random.below(5))
        let isDone: Bool
        if actor < Self.cpuThreads {
            isDone = (try? cpus[actor].fetchAdd(amount, at: address)) != nil
        } else {
            let device = devices[actor - Self.cpuThreads]
            // A CPU reaches coherent memory while the device uses it.
            if device.memory?.kind == .private, random.below(2) == 0 {
                isDone =
                    (try? device.withPage(page, for: .atomic) { (words) -> Void in
                        let old = words[Self.counterWord].load(ordering: .relaxed)
                        words[Self.counterWord].store(old &+ amount, ordering: .relaxed)
                    }) != nil
            } else {
                isDone = (try? device.atomicAdd(amount, at: address)) != nil
            }
        }
        if isDone { ledger.add(amount, region.firstPage + i) }
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
        default: random.below(2) == 0 ? move(regions[3]) : collapse(regions[1 + random.below(2)])
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
        guard let child = try? space.fork() else {
            // 6.12 gives up for the sake of one page that a device has locked.
            if !machine.profile.forkFailsOnLockedExclusive { fail("fork failed") }
            return
        }
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
        let part = region.part(&random)
        do throws(HMMError) {
            switch random.below(6) {
            case 0: _ = try device.prefetch(part)
            case 1: _ = try device.prefetch(part, from: devices.filter { $0 !== device })
            case 2: _ = try device.prefetch(part, faulting: random.below(2) == 0 ? .read : .write)
            case 3: _ = try device.evict(part)
            default: _ = try device.fault(part, random.below(2) == 0 ? .read : .write)
            }
        } catch {
            if error.code == .inconsistent { fail("device \(actor) missed an invalidation: \(error)") }
        }
    }

    // MARK: The end

    /// Everything that was written is there, for each CPU and each device.
    func verify() {
        for region in regions {
            try? space.protect(region.pages, .readWrite)
            guard !region.isVolatile else { continue }
            verifyCounters(region)
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
        let statistics = machine.statistics
        #expect(statistics.pagesToDevice.count > 0 && statistics.pagesToSystem.count > 0)
        #expect(statistics.swapIns.count > 0 && statistics.copiesOnWrite.count > 0)
        let faults = machine.checkInvariants()
        #expect(faults == [], "HMM_SEED=\(seed)")
        #expect(failures == [], "HMM_SEED=\(seed)")
    }

    private func verifyCounters(_ region: StressRegion) {
        for i in 0..<min(16, region.pageCount) {
            let expected = ledger.total(region.firstPage + i)
            let value = load(region.page(i), Self.counterWord, by: 0)
            if value != expected {
                fail("the counter of \(region.name)[\(i)] is \(String(describing: value)), not \(expected)")
            }
        }
    }

    func finish() throws {
        for device in devices {
            #expect(device.table.checkInvariants() == [])
            #expect(device.tlb.accessesInFlight == 0)
            device.detach()
            #expect(device.memory?.usedFrames == 0)
        }
        for cpu in cpus { space.removeCPU(cpu) }
        space.exit()
        #expect(machine.checkInvariants() == [])
        #expect(machine.frames.system.usedFrames == 0)
        #expect(machine.tables.usedTables == 0)
        #expect(machine.swap.usedSlots == 0)
        #expect(machine.anonVMAs.live == 0)
    }
}
