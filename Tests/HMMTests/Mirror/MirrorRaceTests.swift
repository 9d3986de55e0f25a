import Synchronization
import Testing

@testable import HMM

/// The races of a mirror, each under many random schedules of virtual threads.
@Suite("Mirror: races")
struct MirrorRaceTests {
    private static let scheduleCount = 400

    /// A small world: a mirror with a device, and what the threads saw.
    private final class World: @unchecked Sendable {
        let recorder = RecordingEffects()
        let tlb = DeviceTLB(setCount: 1)
        let mirror: RadixMirror
        let driver = FairMutex(.driver)
        /// Filled by virtual threads of one thread of the system.
        var problems: [String] = []
        /// The frame that the page under test may be accessed through.
        var currentFrame: UInt32 = 0

        init(budget: Int, hasDevice: Bool = false) {
            let (recorder, tlb) = (recorder, tlb)
            var configuration = MirrorConfiguration()
            configuration.emptyBudget = budget
            configuration.directoryLimit = 32
            mirror = RadixMirror(
                configuration,
                effects: MirrorEffects(translationCache: hasDevice ? tlb : recorder) { recorder.noteDirty($0) })
        }

        func commit(_ runs: MirrorRun...) {
            do { try mirror.commit(runs) } catch { problems.append("commit: \(error)") }
        }

        func clear(_ range: PageRange, _ mask: MirrorKeepMask = .nothing) {
            if !mirror.invalidate(range, keeping: mask, isBlockable: true) { problems.append("refused") }
        }

        func expect(_ claim: Bool, _ problem: String) { if !claim { problems.append(problem) } }
    }

    /// Runs the bodies that `make` prepares, under many schedules, and `check`s the end of each.
    private func explore(
        budget: Int, hasDevice: Bool = false, _ make: (World) -> [() -> Void], check: (World) -> Void = { _ in }
    ) {
        let first = mirrorTestSeed(1000)
        for seed in first..<first + UInt64(Self.scheduleCount) {
            let world = World(budget: budget, hasDevice: hasDevice)
            if let problem = RandomScheduler.run(seed: seed, make(world)) { world.problems.append(problem) }
            check(world)
            world.problems += world.mirror.checkInvariants()
            world.mirror.tearDown()
            world.expect(world.mirror.statistics.directories == 1, "directories left")
            #expect(world.problems == [], "HMM_SEED=\(seed)")
            if !world.problems.isEmpty { return }
        }
    }

    @Test("race 1: populate against the last entry of the same directory going", arguments: [0, 1])
    func populateAgainstEmptying(budget: Int) {
        explore(budget: budget) { world in
            world.commit(run(5, frame: 50))
            return [
                { world.clear(pages(5)) }, { world.commit(run(6, frame: 60)) },
                { world.clear(pages(0, 6), .nothingAndPrune) },
            ]
        } check: { world in
            world.expect(world.mirror.lookup(PageNumber(5)) == nil, "5 is still there")
            world.expect(world.mirror.lookup(PageNumber(6))?.frame.raw == 60, "6 is lost")
        }
    }

    @Test("race 2: two populates of one missing directory")
    func twoPopulates() {
        explore(budget: 0) { world in
            [
                { world.commit(run(5, frame: 50)) }, { world.commit(run(6, frame: 60)) },
                { world.commit(run(512 + 5, frame: 70)) },
            ]
        } check: { world in
            world.expect(world.mirror.statistics.directories == 5, "one directory too many")
        }
    }

    /// A directory that is freed at once is reused at another place, and the reader finds the entry of another page.
    @Test("race 3: a reader on its way down while directories are freed and reused")
    func readerAgainstReuse() {
        explore(budget: 0) { world in
            world.commit(run(5, frame: 50))
            return [
                {
                    let seen = world.mirror.lookup(PageNumber(5))
                    world.expect(seen == nil || seen?.frame.raw == 50, "saw \(String(describing: seen))")
                },
                {
                    world.clear(pages(5))
                    world.commit(run(1 << 30 + 5, frame: 99))
                    world.clear(pages(1 << 30 + 5))
                    world.commit(run(1 << 20 + 5, frame: 98))
                },
                { world.mirror.forEachRun(in: pages(0, 100)) { world.expect($0 == run(5, frame: 50), "saw \($0)") } },
            ]
        }
    }

    @Test(
        "race 4: every dirty mark that succeeded is reported", arguments: [MirrorKeepMask.nothing, .exceptWrite])
    func dirtyAgainstClear(mask: MirrorKeepMask) {
        let marks = Atomic<Int>(0)
        explore(budget: 1) { world in
            world.commit(run(5, frame: 50))
            let translation = world.mirror.lookup(PageNumber(5))!
            marks.store(0, ordering: .relaxed)
            return [
                { if world.mirror.markDirty(PageNumber(5), through: translation) { marks.add(1, ordering: .relaxed) } },
                { world.clear(pages(5), mask) },
                { world.mirror.harvestDirty(pages(5)) },
            ]
        } check: { world in
            world.clear(pages(5))
            let isReported = world.recorder.takeDirty()[PageNumber(5)] != nil
            world.expect(isReported == (marks.load(ordering: .relaxed) > 0), "marked and reported differ")
        }
    }

    @Test("race 5: conversion to device addresses against a clear")
    func conversionAgainstClear() {
        explore(budget: 0) { world in
            world.commit(run(5, 2, frame: 50))
            return [
                { world.mirror.convertToDeviceAddresses(pages(0, 10)) }, { world.clear(pages(5)) },
                { _ = world.mirror.setDriverBits(2, of: PageNumber(6)) },
            ]
        } check: { world in
            world.expect(world.mirror.lookup(PageNumber(5)) == nil, "5 came back")
            let kept = world.mirror.lookup(PageNumber(6))
            world.expect(kept?.isDeviceAddress == true && kept?.driverBits == 2, "6 is \(String(describing: kept))")
        }
    }

    @Test("race 7: promotion and demotion against clears of one page, under the driver lock")
    func promotionAgainstClear() {
        explore(budget: 1, hasDevice: true) { world in
            world.commit(run(512, 512, frame: 1024))
            return [
                { world.driver.withLock { world.commit(run(512, 512, frame: 1024, order: 9)) } },
                { world.driver.withLock { world.clear(pages(600)) } },
                {
                    for page in [600, 601] as [UInt64] {
                        _ = world.tlb.access(PageNumber(page), .write, through: world.mirror) {
                            world.expect($0.frame.raw == UInt32(page) + 512, "\(page) is \($0)")
                        }
                    }
                },
                { world.mirror.forEachRun(in: pages(512, 512)) { world.expect($0.pages.pageCount > 0, "empty") } },
            ]
        } check: { world in
            let count = world.mirror.statistics.mappedPages
            world.expect(count == 511 || count == 512, "\(count) pages are mapped")
        }
    }

    /// The actor reuses the frame as soon as the invalidation returned.
    @Test("race 8: device accesses in flight and late fills against shootdowns")
    func accessAgainstShootdown() {
        explore(budget: 1, hasDevice: true) { world in
            world.currentFrame = 50
            world.commit(run(5, frame: 50))
            func access(_ kind: AccessKind) {
                _ = world.tlb.access(PageNumber(5), kind, through: world.mirror) {
                    world.expect($0.frame.raw == world.currentFrame, "through \($0)")
                    schedulingPoint(.yield, on: 1)
                    world.expect($0.frame.raw == world.currentFrame, "the frame was taken away under \($0)")
                }
            }
            return [
                {
                    access(.read)
                    access(.write)
                    access(.read)
                }, { access(.write) },
                {
                    world.driver.withLock { world.clear(pages(5)) }
                    world.currentFrame = 51
                    world.driver.withLock { world.commit(run(5, frame: 51)) }
                    world.driver.withLock { world.clear(pages(5)) }
                    world.currentFrame = 52
                },
            ]
        }
    }

    @Test("race 11: the ring of empties hands directories on while they are filled again", arguments: [1, 2])
    func ringAgainstRefill(budget: Int) {
        explore(budget: budget) { world in
            for place in 0..<3 as Range<UInt64> { world.commit(run(place * 512, frame: 1)) }
            return (0..<3 as Range<UInt64>).map { place in
                {
                    world.clear(pages(place * 512))
                    world.commit(run(place * 512 + 1, frame: 2))
                    world.clear(pages(place * 512 + 1))
                }
            } + [{ _ = world.mirror.shrink() }]
        }
    }

    @Test("a call that may not block is refused as a whole or done as a whole")
    func nonBlockingIsAllOrNothing() {
        explore(budget: 0) { world in
            world.commit(run(500, 20, frame: 1000))
            return [
                {
                    let isDone = world.mirror.invalidate(pages(500, 20), keeping: .nothing, isBlockable: false)
                    let count = pages(500, 20).count { world.mirror.lookup($0) != nil }
                    world.expect(count == (isDone ? 0 : 20), "\(isDone), \(count) pages are left")
                },
                { world.commit(run(5000, frame: 5)) },
                { world.mirror.harvestDirty(pages(500, 20)) },
            ]
        }
    }

    @Test("two tear-downs and a device that goes on")
    func twoTearDowns() {
        explore(budget: 4, hasDevice: true) { world in
            world.commit(run(512, 1024, frame: 1024, order: 9), run(5, 3, frame: 50))
            return [
                { world.mirror.tearDown() }, { world.mirror.tearDown() },
                { _ = world.tlb.access(PageNumber(600), .write, through: world.mirror) { _ in } },
            ]
        } check: { world in
            world.expect(world.mirror.statistics.mappedPages == 0, "pages are left")
        }
    }
}
