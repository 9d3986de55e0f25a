import Synchronization
import Testing

@testable import HMM

/// Threads of the system on one mirror: fills, invalidations, pruning, device accesses.
@Suite("Mirror: stress", .serialized)
struct MirrorStressTests {
    /// What must hold of each frame: a page has version v while its mirror may name frame (page, v).
    private final class World: Sendable {
        static let pageCount = 2048
        let tlb = DeviceTLB(setCount: 16)
        let mirror: RadixMirror
        let driver = FairMutex(.driver)
        /// The valid version of each page; a device access that sees another one is an error.
        let versions: Versions
        let errors = Atomic<Int>(0)
        let accesses = Atomic<Int>(0)
        let refusals = Atomic<Int>(0)
        let isStopped = Atomic<Bool>(false)

        init(budget: Int) {
            var configuration = MirrorConfiguration()
            configuration.emptyBudget = budget
            configuration.directoryLimit = 1 << 10
            let versions = Versions(count: Self.pageCount)
            self.versions = versions
            mirror = RadixMirror(
                configuration,
                effects: MirrorEffects(translationCache: tlb) { run in
                    for page in run.pages { versions.reported(page) }
                })
        }
    }

    private final class Versions: @unchecked Sendable {
        let current: UnsafeMutablePointer<Atomic<UInt32>>
        /// Writes that the device made and that no report has covered yet.
        let unreported: UnsafeMutablePointer<Atomic<Int>>
        private let count: Int
        init(count: Int) {
            self.count = count
            current = .allocate(capacity: count)
            unreported = .allocate(capacity: count)
            for index in 0..<count {
                (current + index).initialize(to: Atomic(0))
                (unreported + index).initialize(to: Atomic(0))
            }
        }
        deinit {
            current.deallocate()
            unreported.deallocate()
        }
        func reported(_ page: PageNumber) { unreported[Int(page.raw)].store(0, ordering: .sequentiallyConsistent) }
    }

    private static func frame(_ page: UInt64, _ version: UInt32) -> UInt32 {
        UInt32(page) + (version % 64 + 1) * UInt32(World.pageCount)
    }

    /// Invalidates, then gives the pages new frames: any later access must see them.
    private static func act(_ world: World, _ generator: inout SeededGenerator, _ turns: Int) {
        for _ in 0..<turns {
            let first = UInt64(generator.below(World.pageCount))
            let limit = generator.chance(1, in: 4) ? 600 : 12
            let range = pages(first, min(World.pageCount - Int(first), 1 + generator.below(limit)))
            let mask: MirrorKeepMask = generator.chance(1, in: 2) ? .nothing : .nothingAndPrune
            world.driver.lock()
            let isBlockable = generator.chance(3, in: 4)
            if world.mirror.invalidate(range, keeping: mask, isBlockable: isBlockable) {
                for page in range {
                    // After the callback no write may be unreported, and no access may be on its way.
                    let open = world.versions.unreported[Int(page.raw)].load(ordering: .sequentiallyConsistent)
                    if open != 0 { world.errors.add(1, ordering: .relaxed) }
                    world.versions.current[Int(page.raw)].add(1, ordering: .sequentiallyConsistent)
                }
            } else {
                world.refusals.add(1, ordering: .relaxed)
            }
            world.driver.unlock()
        }
    }

    private static func fault(_ world: World, _ page: UInt64, _ generator: inout SeededGenerator) {
        world.driver.lock()
        defer { world.driver.unlock() }
        // Whole 2 MiB blocks are mapped huge while they have one version everywhere.
        let block = page / 512 * 512
        let version = world.versions.current[Int(page)].load(ordering: .relaxed)
        let isUniform = (block..<block + 512).allSatisfy {
            world.versions.current[Int($0)].load(ordering: .relaxed) == version
        }
        do {
            if isUniform && generator.chance(1, in: 2) {
                try world.mirror.commit(run(block, 512, frame: frame(block, version), order: 9))
            } else {
                try world.mirror.commit(run(page, frame: frame(page, version)))
            }
        } catch {
            world.errors.add(1, ordering: .relaxed)
        }
    }

    private static func device(_ world: World, _ generator: inout SeededGenerator) {
        while !world.isStopped.load(ordering: .relaxed) {
            let page = UInt64(generator.below(World.pageCount))
            let isWrite = generator.chance(1, in: 2)
            let isDone: Void? = world.tlb.access(PageNumber(page), isWrite ? .write : .read, through: world.mirror) {
                let version = world.versions.current[Int(page)].load(ordering: .sequentiallyConsistent)
                if $0.frame.raw != frame(page, version) { world.errors.add(1, ordering: .relaxed) }
                if isWrite { world.versions.unreported[Int(page)].add(1, ordering: .sequentiallyConsistent) }
                // Still the same: an invalidation in between would have had to wait for this access.
                if world.versions.current[Int(page)].load(ordering: .sequentiallyConsistent) != version {
                    world.errors.add(1, ordering: .relaxed)
                }
            }
            if isDone == nil { fault(world, page, &generator) } else { world.accesses.add(1, ordering: .relaxed) }
        }
    }

    @Test("counts, versions and dirt survive four threads", arguments: [0, 2, 64])
    func fourThreads(budget: Int) {
        let seed = mirrorTestSeed(21)
        let world = World(budget: budget)
        let devices = (0..<2).map { index in
            SyncThread.spawn(name: "device \(index)") {
                var generator = SeededGenerator(seed: seed + UInt64(index))
                Self.device(world, &generator)
            }
        }
        let janitor = SyncThread.spawn(name: "janitor") {
            var generator = SeededGenerator(seed: seed + 7)
            while !world.isStopped.load(ordering: .relaxed) {
                switch generator.below(3) {
                case 0: _ = world.mirror.shrink()
                case 1:
                    // Under the driver lock: a harvest between a write and its accounting would look like a loss.
                    world.driver.lock()
                    world.mirror.harvestDirty(pages(0, World.pageCount))
                    world.driver.unlock()
                default: world.mirror.forEachRun(in: pages(0, World.pageCount)) { _ in }
                }
                SyncClock.sleep(nanoseconds: 200_000)
            }
        }
        var generator = SeededGenerator(seed: seed + 9)
        Self.act(world, &generator, 4000)
        world.isStopped.store(true, ordering: .relaxed)
        (devices + [janitor]).forEach { $0.join() }
        #expect(world.errors.load(ordering: .relaxed) == 0, "HMM_SEED=\(seed)")
        #expect(world.accesses.load(ordering: .relaxed) > 0)
        #expect(world.tlb.accessesInFlight == 0)
        #expect(world.mirror.checkInvariants() == [], "HMM_SEED=\(seed)")
        world.mirror.tearDown()
        let statistics = world.mirror.statistics
        #expect(statistics.mappedPages == 0 && statistics.directories == 1)
        #expect(world.mirror.pool.occupancy.free == world.mirror.pool.occupancy.used - 1)
        #expect(world.mirror.checkInvariants() == [])
    }

    /// No driver lock at all: the tree alone keeps its counts. Commits of one thread stay on its own pages, because
    /// overlapping commit and invalidate are the caller's to exclude.
    @Test("races 1 to 3: populate, empty and prune the same directories without the driver lock", arguments: [0, 1])
    func bareTree(budget: Int) {
        let mirror = RadixMirror(budget: budget)
        let threads = (0..<3 as Range<UInt64>).map { index in
            SyncThread.spawn(name: "filler \(index)") {
                var generator = SeededGenerator(seed: mirrorTestSeed(31) + index)
                for _ in 0..<6000 {
                    // Two directories, pages interleaved among the threads.
                    let page = UInt64(generator.below(300)) * 3 + index
                    let here = pages(page)
                    if generator.chance(1, in: 2) {
                        try! mirror.commit(run(page, frame: UInt32(page) + 1))
                        if mirror.lookup(PageNumber(page))?.frame.raw != UInt32(page) + 1 { fatalError("lost") }
                    } else {
                        _ = mirror.invalidate(here, keeping: .nothingAndPrune, isBlockable: true)
                        if mirror.lookup(PageNumber(page)) != nil { fatalError("still there") }
                    }
                }
                _ = mirror.invalidate(pages(0, 1024), keeping: .exceptWrite, isBlockable: true)
            }
        }
        threads.forEach { $0.join() }
        #expect(mirror.checkInvariants() == [])
        mirror.tearDown()
        #expect(mirror.statistics.directories == 1 && mirror.checkInvariants() == [])
    }
}
