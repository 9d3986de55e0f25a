import Foundation
import Synchronization
import Testing

@testable import HMM

/// Each pair of operations on two pages of one address space, under many random schedules of virtual threads. Whoever
/// wins: a page holds a value that was written, no lock is left, and the books agree. `HMM_SEED` sets the first
/// schedule.
@Suite("Address space: races")
struct AddressSpaceRaceTests {
    private static let scheduleCount = 30
    static let firstSeed = ProcessInfo.processInfo.environment["HMM_SEED"].flatMap { UInt64($0) } ?? 1

    /// A process with two pages of value 1, on a small machine.
    final class World: @unchecked Sendable {
        let machine: Machine
        let space: AddressSpace
        let cpus: [CPU]
        var problems: [String] = []
        static let base = Fixture.base
        static let elsewhere = PageNumber(0x3_000_000)
        let device = NotifierOwner(device: 9, mirror: 1)

        init(shared: Bool) throws {
            var configuration = MachineConfiguration()
            configuration.systemMemoryBytes = 4 << 20
            configuration.swapBytes = 1 << 20
            configuration.deviceMemoryBytes = 0
            configuration.pageTables = 256
            configuration.hugetlbPages = 0
            configuration.profile = .next
            machine = try Machine(configuration)
            let space = try machine.makeAddressSpace()
            self.space = space
            cpus = (0..<3).map { _ in space.makeCPU() }
            try space.map(Self.pages, protection: .readWrite, kind: shared ? .sharedAnonymous : .anonymous())
            for page in Self.pages { try cpus[2].store(1, at: page.address) }
        }

        static var pages: PageRange { base..<base.advanced(by: 2) }
        static var first: PageRange { base..<base.advanced(by: 1) }

        func attempt(_ body: () throws(HMMError) -> Void) {
            do throws(HMMError) { try body() } catch {
                // What a program may be told while another thread changes the mapping.
                let expected: [HMMError.Code] = [
                    .outOfMemory, .badAddress, .invalidArgument, .tryAgain, .notSupported, .accessDenied,
                ]
                if !expected.contains(error.code) { problems.append("\(error)") }
            }
        }

        func load(_ cpu: CPU, _ page: PageNumber, among values: [UInt64]) {
            guard let value = try? cpu.load(page.address) else { return }
            if !values.contains(value) { problems.append("\(page) has \(value)") }
        }

        func finish() -> [String] {
            for cpu in cpus { space.removeCPU(cpu) }
            problems += machine.checkInvariants()
            space.exit()
            problems += machine.checkInvariants()
            if machine.frames.system.usedFrames != 0 { problems.append("frames are left") }
            if machine.swap.usedSlots != 0 { problems.append("swap slots are left") }
            if machine.tables.usedTables != 0 { problems.append("tables are left") }
            return problems
        }
    }

    typealias Operation = (name: String, run: @Sendable (World, CPU) -> Void)

    static let operations: [Operation] = [
        ("read", { w, cpu in for page in World.pages { w.load(cpu, page, among: [0, 1, 2]) } }),
        ("write", { w, cpu in for page in World.pages { try? cpu.store(2, at: page.address) } }),
        (
            "fork",
            { w, _ in
                w.attempt { () throws(HMMError) in
                    let child = try w.space.fork()
                    let cpu = child.makeCPU()
                    for page in World.pages { w.load(cpu, page, among: [0, 1, 2]) }
                    try? cpu.store(1, at: World.base.address)
                    child.removeCPU(cpu)
                    child.exit()
                }
            }
        ),
        ("protect", { w, _ in
            w.attempt { () throws(HMMError) in try w.space.protect(World.first, .read) }
            w.attempt { () throws(HMMError) in try w.space.protect(World.pages, .readWrite) }
        }),
        ("page out", { w, _ in w.attempt { () throws(HMMError) in try w.space.advise(World.pages, .pageout) } }),
        ("dontneed", { w, _ in w.attempt { () throws(HMMError) in try w.space.advise(World.first, .dontneed) } }),
        ("unmap and map", { w, _ in
            w.attempt { () throws(HMMError) in try w.space.unmap(World.first) }
            w.attempt { () throws(HMMError) in
                try w.space.map(World.first, protection: .readWrite, kind: .anonymous())
            }
        }),
        ("move and back", { w, _ in
            let there = World.elsewhere..<World.elsewhere.advanced(by: 1)
            w.attempt { () throws(HMMError) in try w.space.remap(World.first, to: there.lowerBound) }
            w.attempt { () throws(HMMError) in try w.space.remap(there, to: World.base) }
        }),
        ("populate", { w, _ in w.attempt { () throws(HMMError) in try w.space.advise(World.pages, .populateWrite) } }),
        ("pin", { w, _ in
            w.space.lockForReading()
            let frame = try? w.space.reference(World.base, [.write, .pin])
            w.space.unlockForReading()
            if let frame { w.space.release(frame, [.write, .pin]) }
        }),
        ("exclusive", { w, _ in
            w.attempt { () throws(HMMError) in
                w.space.lockForReading()
                defer { w.space.unlockForReading() }
                try w.space.makeExclusive(World.base, owner: w.device).release()
            }
        }),
        ("remove", { w, _ in w.attempt { () throws(HMMError) in try w.space.advise(World.first, .remove) } }),
    ]

    static let pairs: [(Int, Int)] = operations.indices.flatMap { a in (a..<operations.count).map { (a, $0) } }

    @Test("every pair of operations", arguments: [false, true])
    func pairsOfOperations(shared: Bool) throws {
        for (a, b) in Self.pairs {
            for i in 0..<Self.scheduleCount {
                let seed = Self.firstSeed &+ UInt64(i)
                let world = try World(shared: shared)
                let ended = RandomScheduler.run(
                    seed: seed,
                    [
                        { Self.operations[a].run(world, world.cpus[0]) },
                        { Self.operations[b].run(world, world.cpus[1]) },
                    ])
                let problems = ended.map { [$0] } ?? world.finish()
                #expect(
                    problems == [],
                    "\(Self.operations[a].name) beside \(Self.operations[b].name), HMM_SEED=\(seed)")
                if ended != nil { return }
            }
        }
    }

    @Test("R1, R3, R15: three threads: fork, write fault and page-out of one page")
    func threeThreads() throws {
        let trio = ["fork", "write", "page out"].map { name in Self.operations.first { $0.name == name }! }
        for i in 0..<150 {
            let seed = Self.firstSeed &+ UInt64(i)
            let world = try World(shared: false)
            let ended = RandomScheduler.run(
                seed: seed, trio.enumerated().map { index, operation in { operation.run(world, world.cpus[index]) } })
            let problems = ended.map { [$0] } ?? world.finish()
            #expect(problems == [], "HMM_SEED=\(seed)")
            if ended != nil { return }
        }
    }
}
