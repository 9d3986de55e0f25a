import Synchronization
import Testing

@testable import HMM

@Suite("DeviceTLB")
struct DeviceTLBTests {
    @Test func missesThenHits() throws {
        let tlb = DeviceTLB()
        let mirror = RadixMirror(budget: 64, effects: MirrorEffects(translationCache: tlb))
        #expect(tlb.access(PageNumber(5), .read, through: mirror) { $0.frame } == nil)
        try mirror.commit([run(5, frame: 50, write: false), run(512, 512, frame: 1024, order: 9)])
        #expect(tlb.access(PageNumber(5), .read, through: mirror) { $0.frame } == FrameNumber(50))
        #expect(tlb.hits == 0)
        #expect(tlb.access(PageNumber(5), .read, through: mirror) { $0.frame } == FrameNumber(50))
        #expect(tlb.hits == 1)
        #expect(tlb.access(PageNumber(5), .write, through: mirror) { $0.frame } == nil)
        // One huge translation serves all its pages.
        #expect(tlb.access(PageNumber(600), .write, through: mirror) { $0.frame } == FrameNumber(1112))
        #expect(tlb.access(PageNumber(601), .write, through: mirror) { $0.frame } == FrameNumber(1113))
        #expect(tlb.hits == 2 && mirror.lookup(PageNumber(601))!.isDirty)
        #expect(tlb.accessesInFlight == 0)
    }

    @Test func invalidationTakesTranslationsAway() throws {
        let tlb = DeviceTLB()
        let mirror = RadixMirror(budget: 64, effects: MirrorEffects(translationCache: tlb))
        try mirror.commit([run(0, 8, frame: 50), run(512, 512, frame: 1024, order: 9)])
        for page in 0..<8 as Range<UInt64> { _ = tlb.access(PageNumber(page), .write, through: mirror) { _ in } }
        _ = tlb.access(PageNumber(700), .read, through: mirror) { _ in }
        #expect(mirror.invalidate(pages(3), keeping: .nothing, isBlockable: true))
        #expect(tlb.access(PageNumber(3), .read, through: mirror) { _ in } == nil)
        #expect(mirror.invalidate(pages(4, 2), keeping: .exceptWrite, isBlockable: true))
        #expect(tlb.access(PageNumber(4), .write, through: mirror) { _ in } == nil)
        #expect(tlb.access(PageNumber(4), .read, through: mirror) { _ in } != nil)
        #expect(mirror.invalidate(pages(600), keeping: .nothing, isBlockable: true))
        var stale = 0
        tlb.forEachTranslation { range, entry in
            for page in range where mirror.lookup(page)?.isValid != true { stale += 1 }
        }
        #expect(stale == 0)
    }

    @Test func dirtyIsMarkedAgainAfterAHarvest() throws {
        let recorder = RecordingEffects()
        let tlb = DeviceTLB()
        let mirror = RadixMirror(
            .init(), effects: MirrorEffects(translationCache: tlb) { recorder.noteDirty($0) })
        try mirror.commit(run(7, frame: 70))
        for _ in 0..<2 {
            _ = tlb.access(PageNumber(7), .write, through: mirror) { _ in }
            mirror.harvestDirty(pages(0, 10))
            #expect(recorder.takeDirty() == [PageNumber(7): FrameNumber(70)])
        }
    }

    @Test func atomicsNeedTheTagOnSystemMemory() throws {
        let tlb = DeviceTLB()
        let mirror = RadixMirror(budget: 64, effects: MirrorEffects(translationCache: tlb))
        try mirror.commit([
            run(0, frame: 1), run(1, frame: 2, atomic: true), run(2, frame: 3, location: .ownDevice),
        ])
        #expect(tlb.access(PageNumber(0), .atomic, through: mirror) { _ in } == nil)
        #expect(tlb.access(PageNumber(1), .atomic, through: mirror) { _ in } != nil)
        #expect(tlb.access(PageNumber(2), .atomic, through: mirror) { _ in } != nil)
        try mirror.commit(run(1, frame: 2))
        #expect(tlb.access(PageNumber(1), .atomic, through: mirror) { _ in } == nil)
    }

    /// The invalidation returns only after the write that was on its way has arrived.
    @Test func shootdownWaitsForAccessInFlight() throws {
        let tlb = DeviceTLB()
        let mirror = RadixMirror(budget: 64, effects: MirrorEffects(translationCache: tlb))
        try mirror.commit(run(5, 2, frame: 50))
        let step = Atomics()
        let device = SyncThread.spawn(name: "device") {
            _ = tlb.access(PageNumber(5), .write, through: mirror) { _ in
                step.value.store(1, ordering: .sequentiallyConsistent)
                while step.value.load(ordering: .sequentiallyConsistent) == 1 { SyncClock.sleep(nanoseconds: 100_000) }
                SyncClock.sleep(nanoseconds: 10_000_000)
                step.value.store(3, ordering: .sequentiallyConsistent)
            }
        }
        while step.value.load(ordering: .sequentiallyConsistent) == 0 { SyncClock.sleep(nanoseconds: 100_000) }
        // A neighbour does not wait.
        #expect(mirror.invalidate(pages(6), keeping: .nothing, isBlockable: true))
        #expect(step.value.exchange(2, ordering: .sequentiallyConsistent) == 1)
        #expect(mirror.invalidate(pages(5), keeping: .nothing, isBlockable: true))
        #expect(step.value.load(ordering: .sequentiallyConsistent) == 3)
        device.join()
    }

    private final class Atomics: Sendable {
        let value = Atomic<Int>(0)
    }
}
