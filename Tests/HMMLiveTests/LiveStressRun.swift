import Glibc
import HMM
import HMMLive
import Synchronization
import Testing

/// One run of the stress test: the actors, and what each of their steps does.
final class LiveStressRun: @unchecked Sendable {
    // Immutable but for `failures`, which its lock guards.
    let space: LiveSpace
    let devices: [SoftwareDevice]
    let regions: [LiveRegion]
    /// Handed to system calls: each CPU actor has pages of its own, which no other writes.
    let buffers: LiveRegion
    let ledger: LiveLedger
    let seed: UInt64
    let pipes: [(read: Int32, write: Int32)]
    let forkLock = Mutex(())
    let steps = Atomic<Int>(0)
    let children = Atomic<Int>(0)
    let systemCalls = Atomic<Int>(0)
    private let failures = Mutex<[String]>([])

    static let cpuThreads = 4
    static let actors = cpuThreads + 2
    /// Less than the huge region has, so that devices are full.
    static let deviceMemoryBytes = 3 << 20

    init(seed: UInt64) throws {
        self.seed = seed
        let space = try LiveSpace.start()
        self.space = space
        var first = 0
        func region(
            _ name: String, _ pages: Int, _ change: LiveRegion.Change = .nothing, isHuge: Bool = false,
            faults: LiveSpace.FaultPath = .onThread
        ) throws -> LiveRegion {
            defer { first += pages }
            return try LiveRegion(
                name, pages: pages, first: first, change, isHuge: isHuge, faults: faults, in: space)
        }
        regions = [
            try region("plain", 256), try region("huge", 1024, isHuge: true),
            try region("handler thread", 64, faults: .handlerThread), try region("hot", 4),
            try region("protected", 64, .protected), try region("discarded", 32, .discarded),
            try region("replaced", 16, .replaced), try region("moved", 24, .moved),
        ]
        buffers = try region("buffers", 2 * Self.cpuThreads, faults: .handlerThread)
        devices = try [DeviceMemoryKind.private, .coherent].enumerated().map { index, kind in
            try SoftwareDevice.attach(
                to: space, index: 40 + index,
                memory: SoftwareDeviceMemory(on: space.machine, kind, sizeBytes: Self.deviceMemoryBytes))
        }
        pipes = (0..<Self.cpuThreads).map { _ in
            var ends: [Int32] = [-1, -1]
            precondition(pipe(&ends) == 0, "no pipe")
            return (ends[0], ends[1])
        }
        ledger = LiveLedger(pages: first, actors: Self.actors)
    }

    func fail(_ text: @autoclosure () -> String) {
        let text = text()
        // The issue of another process comes without the values.
        let line = "live stress: \(text)\n"
        _ = line.withCString { Glibc.write(STDERR_FILENO, $0, strlen($0)) }
        failures.withLock { if $0.count < 20 { $0.append(text) } }
    }

    var hasFailed: Bool { failures.withLock { !$0.isEmpty } }

    // MARK: Playing

    func play(seconds: Double) {
        let end = SyncClock.now() + UInt64(seconds * 1e9)
        let threads = (0..<Self.actors).map { actor in
            SyncThread.spawn(name: "actor \(actor)") { [self] in
                var random = LiveRandom(seed &+ UInt64(actor) &* 7919)
                var count = 0
                while SyncClock.now() < end, !hasFailed {
                    for _ in 0..<16 { step(actor, &random) }
                    count += 16
                }
                steps.wrappingAdd(count, ordering: .relaxed)
            }
        }
        for thread in threads { thread.join() }
    }

    private func step(_ actor: Int, _ random: inout LiveRandom) {
        let region = regions[random.below(regions.count)]
        let i = random.below(region.pageCount)
        switch random.below(100) {
        case ..<40: read(region, i, by: actor, writer: random.below(Self.actors))
        case ..<70: write(region, i, by: actor)
        case ..<88: count(regions[random.below(Self.countedRegions)], by: actor, &random)
        default: actor < Self.cpuThreads ? change(actor, region, &random) : deviceChange(actor, region, &random)
        }
    }

    func load(_ region: LiveRegion, _ i: Int, _ word: Int, by actor: Int) -> UInt64? {
        region.using(forWriting: false) {
            if actor < Self.cpuThreads { return region.word(i, word).pointee.load(ordering: .relaxed) }
            do throws(HMMError) {
                return try devices[actor - Self.cpuThreads].load(region.address(i, word))
            } catch {
                fail("device \(actor) cannot read \(region.name)[\(i)]: \(error)")
                return nil
            }
        }
    }

    private func store(_ value: UInt64, _ region: LiveRegion, _ i: Int, _ word: Int, by actor: Int) {
        region.using(forWriting: true) {
            if actor < Self.cpuThreads { return region.word(i, word).pointee.store(value, ordering: .relaxed) }
            do throws(HMMError) {
                try devices[actor - Self.cpuThreads].store(value, at: region.address(i, word))
            } catch {
                fail("device \(actor) cannot write \(region.name)[\(i)]: \(error)")
            }
        }
    }

    private func read(_ region: LiveRegion, _ i: Int, by actor: Int, writer: Int) {
        let number = region.firstPage + i
        let low = ledger.low(number, writer)
        guard let value = load(region, i, LiveLedger.word(of: writer), by: actor) else { return }
        let high = ledger.high(number, writer)
        if value > high || (!region.isVolatile && value < low) {
            fail("actor \(actor) read \(value) of actor \(writer) in \(region.name)[\(i)], not within \(low)...\(high)")
        }
    }

    private func write(_ region: LiveRegion, _ i: Int, by actor: Int) {
        let number = region.firstPage + i
        let value = ledger.begin(number, actor)
        store(value, region, i, LiveLedger.word(of: actor), by: actor)
        ledger.end(number, actor, value)
    }

    // MARK: Counters

    /// The first regions: never discarded, always writable, never moved.
    static let countedRegions = 4

    /// Adds to the counter of one of the first pages, which all actors have in common.
    ///
    /// Half of the additions of the device with private memory are a load and a store: nobody may come between.
    private func count(_ region: LiveRegion, by actor: Int, _ random: inout LiveRandom) {
        let i = random.below(min(4, region.pageCount))
        let amount = UInt64(1 + random.below(5))
        let word = LiveLedger.counterWord
        ledger.add(amount, region.firstPage + i)
        if actor < Self.cpuThreads {
            region.word(i, word).pointee.wrappingAdd(amount, ordering: .relaxed)
            return
        }
        let device = devices[actor - Self.cpuThreads]
        do throws(HMMError) {
            if device.memory?.kind == .private, random.below(2) == 0 {
                try device.withPage(region.page(i), for: .atomic) { words in
                    let old = words[word].load(ordering: .relaxed)
                    words[word].store(old &+ amount, ordering: .relaxed)
                }
            } else {
                _ = try device.atomicAdd(amount, at: region.address(i, word))
            }
        } catch {
            fail("device \(actor) cannot add in \(region.name)[\(i)]: \(error)")
        }
    }

    private func deviceChange(_ actor: Int, _ region: LiveRegion, _ random: inout LiveRandom) {
        let device = devices[actor - Self.cpuThreads]
        region.using(forWriting: true) {
            let part = region.part(&random)
            do throws(HMMError) {
                switch random.below(6) {
                case 0, 1: _ = try device.prefetch(part)
                case 2: _ = try device.prefetch(part, from: devices.filter { $0 !== device })
                case 3: _ = try device.prefetch(part, faulting: random.below(2) == 0 ? .read : .write)
                case 4: _ = try device.evict(part)
                default: _ = try device.fault(part, random.below(2) == 0 ? .read : .write)
                }
            } catch {
                if error.code == .inconsistent { fail("device \(actor) missed an invalidation: \(error)") }
            }
        }
    }

    // MARK: The end

    /// Everything that was written is there, for ordinary code and for each device.
    func verify() {
        for region in regions where !region.isVolatile {
            for i in 0..<region.pageCount {
                for writer in 0..<Self.actors { verify(region, i, writer) }
            }
        }
        for region in regions[..<Self.countedRegions] {
            for i in 0..<min(4, region.pageCount) {
                let expected = ledger.total(region.firstPage + i)
                let value = region.word(i, LiveLedger.counterWord).pointee.load(ordering: .relaxed)
                if value != expected { fail("the counter of \(region.name)[\(i)] is \(value), not \(expected)") }
            }
        }
        let statistics = space.machine.statistics
        #expect(statistics.pagesToDevice.count > 0)
        #expect(children.load(ordering: .relaxed) > 0 && systemCalls.load(ordering: .relaxed) > 0)
        let found = failures.withLock { $0 }
        // The issue of another process comes without the values.
        #expect(found.isEmpty, "HMM_SEED=\(seed): \(found.joined(separator: "; "))")
    }

    private func verify(_ region: LiveRegion, _ i: Int, _ writer: Int) {
        let expected = ledger.low(region.firstPage + i, writer)
        for reader in [0, Self.cpuThreads, Self.cpuThreads + 1] {
            let value = load(region, i, LiveLedger.word(of: writer), by: reader)
            if value != expected {
                let found = "\(String(describing: value)) of actor \(writer) for actor \(reader)"
                fail("in the end \(region.name)[\(i)] has \(found), not \(expected)")
            }
        }
    }

    /// Unmaps the regions while devices have pages of them, then detaches the devices.
    func finish() throws {
        for region in regions + [buffers] { #expect(space.unmap(region.pages) == 0) }
        for device in devices {
            #expect(device.tlb.accessesInFlight == 0)
            device.detach()
            #expect(device.memory?.usedFrames == 0, "\(device.memory!.kind)")
        }
        for pipe in pipes {
            close(pipe.read)
            close(pipe.write)
        }
    }

    var summary: String {
        let steps = steps.load(ordering: .relaxed)
        let moved = space.machine.statistics.pagesToDevice.count
        return "\(steps) steps, \(moved) pages to devices, \(children.load(ordering: .relaxed)) children, "
            + "\(systemCalls.load(ordering: .relaxed)) buffers through a pipe"
    }
}
