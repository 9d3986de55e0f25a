import Foundation
import Synchronization
import Testing

@testable import HMM

/// The races of huge pages, each under many random schedules of virtual threads: whoever wins, every byte is there, and
/// the books agree. `HMM_SEED` sets the first schedule.
@Suite("Huge pages: races")
struct HugeRaceTests {
    private static let scheduleCount = 40

    /// A process with a huge page, and what its threads saw. The threads are virtual ones of one thread of the system.
    final class World: @unchecked Sendable {
        let machine: Machine
        let space: AddressSpace
        let cpus: [CPU]
        var problems: [String] = []
        static let base = Fixture.base

        init(_ kind: MappingKind = .anonymous(huge: true), pages: Int = 512, pool: Int = 2) throws {
            var configuration = MachineConfiguration()
            configuration.systemMemoryBytes = 16 << 20
            configuration.swapBytes = 8 << 20
            configuration.deviceMemoryBytes = 0
            configuration.pageTables = 1024
            configuration.hugetlbPages = pool
            machine = try Machine(configuration)
            space = try machine.makeAddressSpace()
            let space = space
            cpus = (0..<3).map { _ in space.makeCPU() }
            try space.map(range(0..<pages), protection: .readWrite, kind: kind)
        }

        func range(_ pages: Range<Int>) -> PageRange {
            Self.base.advanced(by: pages.lowerBound)..<Self.base.advanced(by: pages.upperBound)
        }

        func write(_ page: Int, _ value: UInt64, by cpu: Int = 0) {
            do throws(AccessFault) {
                try cpus[cpu].store(value, at: Self.base.advanced(by: page).address)
            } catch {
                problems.append("writing page \(page): \(error)")
            }
        }

        func expect(_ page: Int, _ values: UInt64..., by cpu: CPU? = nil) {
            do throws(AccessFault) {
                let value = try (cpu ?? cpus[0]).load(Self.base.advanced(by: page).address)
                if !values.contains(value) { problems.append("page \(page) has \(value), not one of \(values)") }
            } catch {
                problems.append("reading page \(page): \(error)")
            }
        }

        func attempt(_ body: () throws(HMMError) -> Void, allowing codes: HMMError.Code...) {
            do throws(HMMError) { try body() } catch {
                if !codes.contains(error.code) { problems.append("\(error)") }
            }
        }

        /// Splits the folio of a page, wherever it is by now.
        func split(_ page: Int) {
            space.lockForReading()
            let frame = try? space.reference(Self.base.advanced(by: page), [])
            space.unlockForReading()
            guard let frame else { return }
            let frames = machine.frames
            let head = frames.head(of: frame)
            frames.lockFolio(head)
            let isSplit = frames.isLarge(head) && machine.splitFolio(head, keeping: frame)
            frames.unlockFolio(isSplit ? frame : head)
            frames.put(frame)
        }

        func finish() {
            problems += machine.checkInvariants()
            for cpu in cpus { space.removeCPU(cpu) }
            space.exit()
            problems += machine.checkInvariants()
            if machine.frames.system.usedFrames != 0 { problems.append("frames are left") }
            if machine.tables.usedTables != 0 { problems.append("tables are left") }
            if machine.swap.usedSlots != 0 { problems.append("swap slots are left") }
        }
    }

    /// Runs the bodies that `make` prepares under many schedules, and `check`s the end of each.
    private func explore(
        _ world: () throws -> World, _ make: (World) -> [() -> Void], check: (World) -> Void
    ) throws {
        let first = mirrorTestSeed(2000)
        for seed in first..<first + UInt64(Self.scheduleCount) {
            let world = try world()
            if let problem = RandomScheduler.run(seed: seed, make(world)) { world.problems.append(problem) }
            check(world)
            world.finish()
            #expect(world.problems == [], "HMM_SEED=\(seed)")
            if !world.problems.isEmpty { return }
        }
    }

    private func written() throws -> World {
        let world = try World()
        for page in [0, 7, 100, 300, 511] { world.write(page, 1) }
        return world
    }

    private func scattered() throws -> World {
        let world = try World(.anonymous())
        for page in [0, 7, 100, 300, 511] { world.write(page, 1) }
        return world
    }

    @Test func splitAgainstWritesAndUnmapOfAHalf() throws {
        try explore(written) { world in
            [
                { world.split(7) }, { world.write(100, 2, by: 1) },
                { world.attempt { () throws(HMMError) in try world.space.unmap(world.range(256..<512)) } },
            ]
        } check: { world in
            world.expect(0, 1)
            world.expect(7, 1)
            world.expect(100, 2)
            world.expect(50, 0)
        }
    }

    @Test func splitAgainstSplitAndPageout() throws {
        try explore(written) { world in
            [
                { world.split(7) }, { world.split(300) },
                {
                    world.attempt { () throws(HMMError) in try world.space.advise(world.range(0..<512), .pageout) }
                    world.write(511, 3, by: 1)
                },
            ]
        } check: { world in
            for page in [0, 7, 100, 300] { world.expect(page, 1) }
            world.expect(511, 3)
        }
    }

    @Test func splitAgainstForkAndWrite() throws {
        final class Children: @unchecked Sendable { var child: AddressSpace? }
        for swap in [false, true] {
            var children = Children()
            try explore(written) { world in
                children = Children()
                let children = children
                return [
                    {
                        if swap {
                            try? world.space.advise(world.range(0..<512), .pageout)
                        } else {
                            world.split(7)
                        }
                    },
                    { world.attempt { () throws(HMMError) in children.child = try world.space.fork() } },
                    { world.write(100, 2, by: 1) },
                ]
            } check: { world in
                guard let child = children.child else { return world.problems.append("no child") }
                world.problems += world.machine.checkInvariants()
                let cpu = child.makeCPU()
                world.expect(100, 1, 2, by: cpu)
                for page in [0, 7, 300, 511] { world.expect(page, 1, by: cpu) }
                world.write(0, 5)
                world.expect(0, 1, by: cpu)
                world.expect(100, 2)
                child.removeCPU(cpu)
                child.exit()
            }
        }
    }

    @Test func collapseAgainstWritesAndFork() throws {
        final class Children: @unchecked Sendable { var child: AddressSpace? }
        var children = Children()
        try explore(scattered) { world in
            children = Children()
            let children = children
            return [
                {
                    world.attempt(
                        { () throws(HMMError) in try world.space.advise(world.range(0..<512), .collapse) },
                        allowing: .tryAgain, .invalidArgument)
                },
                {
                    world.write(100, 2, by: 1)
                    world.write(50, 3, by: 1)
                    world.expect(7, 1, by: world.cpus[1])
                },
                { world.attempt { () throws(HMMError) in children.child = try world.space.fork() } },
            ]
        } check: { world in
            guard let child = children.child else { return world.problems.append("no child") }
            world.problems += world.machine.checkInvariants()
            let cpu = child.makeCPU()
            world.expect(100, 1, 2, by: cpu)
            world.expect(50, 0, 3, by: cpu)
            world.write(7, 9)
            world.expect(7, 1, by: cpu)
            world.expect(50, 3)
            child.removeCPU(cpu)
            child.exit()
        }
    }

    @Test func collapseAgainstPageoutAndMove() throws {
        try explore(scattered) { world in
            [
                {
                    world.attempt(
                        { () throws(HMMError) in try world.space.advise(world.range(0..<512), .collapse) },
                        allowing: .tryAgain, .invalidArgument)
                },
                { world.attempt { () throws(HMMError) in try world.space.advise(world.range(0..<400), .pageout) } },
                {
                    world.attempt { () throws(HMMError) in try world.space.protect(world.range(0..<256), .read) }
                    world.attempt { () throws(HMMError) in try world.space.protect(world.range(0..<256), .readWrite) }
                    world.write(100, 2, by: 1)
                },
            ]
        } check: { world in
            for page in [0, 7, 300, 511] { world.expect(page, 1) }
            world.expect(100, 2)
        }
    }

    @Test func sharedCollapseAgainstWritesAndRemoval() throws {
        var child: AddressSpace?
        var cpu: CPU?
        try explore({
            let world = try World(.sharedAnonymous)
            for page in [0, 7, 100, 300, 511] { world.write(page, 1) }
            child = try world.space.fork()
            cpu = child!.makeCPU()
            world.expect(300, 1, by: cpu)
            return world
        }) { world in
            let theirs = cpu!
            return [
                {
                    world.attempt(
                        { () throws(HMMError) in try world.space.advise(world.range(0..<512), .collapse) },
                        allowing: .tryAgain, .invalidArgument)
                },
                {
                    world.write(100, 2, by: 1)
                    try? theirs.store(3, at: World.base.advanced(by: 50).address)
                    world.expect(300, 1, by: theirs)
                },
                {
                    world.attempt { () throws(HMMError) in try world.space.advise(world.range(0..<8), .remove) }
                    world.expect(7, 0, by: world.cpus[2])
                },
            ]
        } check: { world in
            world.expect(7, 0, by: cpu)
            world.expect(50, 3)
            world.expect(100, 2, by: cpu)
            world.expect(300, 1)
            world.problems += world.machine.checkInvariants()
            child!.removeCPU(cpu!)
            child!.exit()
        }
    }

    @Test func hugetlbFaultsOnOnePageTakeOnePage() throws {
        try explore({ try World(.hugetlb(), pool: 1) }) { world in
            [
                { world.write(0, 1, by: 0) }, { world.write(300, 2, by: 1) },
                {
                    world.attempt { () throws(HMMError) in try world.space.advise(world.range(0..<512), .dontneed) }
                    world.write(511, 3, by: 2)
                },
            ]
        } check: { world in
            world.expect(511, 3)
            world.expect(300, 0, 2)
        }
    }

    /// The pool has one page more than the owner needs: both may copy, or the child loses what it had.
    @Test(arguments: [1, 2])
    func hugetlbCopiesOfParentAndChild(_ pool: Int) throws {
        var child: AddressSpace?
        var cpu: CPU?
        try explore({
            let world = try World(.hugetlb(), pool: pool)
            world.write(0, 1)
            world.write(5, 1)
            child = try world.space.fork()
            cpu = child!.makeCPU()
            return world
        }) { world in
            let theirs = cpu!
            return [
                { world.write(0, 2, by: 0) }, { world.write(5, 3, by: 1) },
                { try? theirs.store(4, at: World.base.address) },
            ]
        } check: { world in
            world.expect(0, 2)
            world.expect(5, 3)
            let seen = try? cpu!.load(World.base.address)
            if seen != nil, seen != 1, seen != 4 { world.problems.append("the child reads \(seen!)") }
            world.problems += world.machine.checkInvariants()
            child!.removeCPU(cpu!)
            child!.exit()
        }
    }
}
