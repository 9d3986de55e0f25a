import Synchronization
import Testing

@testable import HMM

// The flaws of the 2016 mirror ("HMM: add device page fault support v6" and its series), each held against our code.
// Those about geometry and event masks are in MirrorPartsTests.

@Suite("Mirror: flaws of the 2016 code")
struct MirrorFlawTests {
    let recorder = RecordingEffects()

    /// A fill that ends at the last entry of a directory must not run past it.
    @Test("flaws 1 and 11: half-open ends, at and around directory borders", arguments: [510, 511, 512, 513, 1024])
    func fillAndClearStopAtTheEnd(count: Int) throws {
        let mirror = RadixMirror(budget: 0)
        try mirror.commit(run(512, count, frame: 4096))
        #expect(mirror.statistics.mappedPages == count)
        #expect(mirror.lookup(PageNumber(511)) == nil)
        #expect(mirror.lookup(PageNumber(512 + UInt64(count))) == nil)
        // Neighbours on both sides survive a clear of exactly the middle.
        try mirror.commit([run(511, frame: 1), run(512 + UInt64(count), frame: 2)])
        #expect(mirror.invalidate(pages(512, count), keeping: .nothing, isBlockable: true))
        #expect(mirror.lookup(PageNumber(511))?.frame.raw == 1)
        #expect(mirror.lookup(PageNumber(512 + UInt64(count)))?.frame.raw == 2)
        #expect(mirror.statistics.mappedPages == 2 && mirror.checkInvariants() == [])
    }

    /// The fault address is inside the leaf, not at its start: frames follow from the head and the index.
    @Test("flaws 2 and 8: the frame of an unaligned start", arguments: [512, 513, 700, 1023] as [UInt64])
    func unalignedPartOfALeafGetsItsOwnFrames(first: UInt64) throws {
        let mirror = RadixMirror()
        let leaf = run(512, 512, frame: 2048, order: 9)
        let part = leaf.clipped(to: PageNumber(first)..<PageNumber(1024))!
        try mirror.commit(part)
        for page in part.pages { #expect(mirror.lookup(page)?.frame.raw == UInt32(page.raw) - 512 + 2048) }
        #expect(mirror.checkInvariants() == [])
    }

    @Test("flaw 3: a larger leaf of the CPU does not map more than the run")
    func leafIsClippedToTheRun() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(512, 511, frame: 2048, order: 9))
        #expect(mirror.lookup(PageNumber(1023)) == nil && mirror.statistics.hugeEntries == 0)
        #expect(mirror.statistics.mappedPages == 511)
    }

    @Test("flaw 6: another translation is reported, dropped and faulted again")
    func foreignTranslationFailsLoudly() throws {
        for mirror in [
            RadixMirror(budget: 64, effects: recorder.effects), FlatMirror(effects: recorder.effects),
            DriverMirror(DictionaryDriver(), effects: recorder.effects),
        ] as [any MirrorTable] {
            try mirror.commit(run(10, 5, frame: 100))
            _ = recorder.take()
            #expect(throws: HMMError(.inconsistent)) { try mirror.commit(run(12, frame: 500)) }
            #expect(mirror.lookup(PageNumber(12)) == nil)
            #expect(mirror.lookup(PageNumber(11))?.frame.raw == 101)
            #expect(mirror.statistics.inconsistentCommits == 1 && !recorder.take().isEmpty)
            try mirror.commit(run(12, frame: 500))
            #expect(mirror.lookup(PageNumber(12))?.frame.raw == 500)
            #expect(mirror.checkInvariants() == [])
        }
    }

    @Test("flaw 6, huge: a foreign leaf goes as a whole, above and below", arguments: [0, 9])
    func foreignHugeTranslationFailsLoudly(order: Int) throws {
        let mirror = RadixMirror(budget: 0, effects: recorder.effects)
        try mirror.commit(run(512, 512, frame: 1024, order: 9))
        #expect(mirror.markDirty(PageNumber(512), through: mirror.lookup(PageNumber(512))!))
        #expect(throws: HMMError(.inconsistent)) { try mirror.commit(run(512, 512, frame: 4096, order: order)) }
        #expect(mirror.lookup(PageNumber(600)) == nil && mirror.statistics.mappedPages == 0)
        #expect(recorder.takeDirty().count == 512)
        #expect(mirror.checkInvariants() == [])
    }

    @Test("flaw 7: an entry keeps driver bits and dirt when rights are added, and loses both when it goes")
    func driverBitsLiveWithTheEntry() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(5, frame: 50))
        #expect(mirror.setDriverBits(3, of: PageNumber(5)))
        #expect(mirror.markDirty(PageNumber(5), through: mirror.lookup(PageNumber(5))!))
        try mirror.commit(run(5, frame: 50))
        #expect(mirror.lookup(PageNumber(5))!.driverBits == 3 && mirror.lookup(PageNumber(5))!.isDirty)
        #expect(mirror.invalidate(pages(5), keeping: .nothing, isBlockable: true))
        try mirror.commit(run(5, frame: 50))
        #expect(mirror.lookup(PageNumber(5))!.driverBits == 0 && !mirror.lookup(PageNumber(5))!.isDirty)
        #expect(!mirror.setDriverBits(1, of: PageNumber(6)))
    }

    /// A hole is as large as the empty slot, not as the directory that would be behind its neighbours.
    @Test(
        "flaw 10: no populated directory behind a hole is skipped",
        arguments: [1, 511, 512, 513, 1 << 18, 1 << 27] as [UInt64])
    func holesAreSkippedBySlot(distance: UInt64) throws {
        let mirror = RadixMirror(budget: 0)
        let places = [7, 7 + distance, 7 + 2 * distance, 7 + 3 * distance + 511]
        for place in places { try mirror.commit(run(place, frame: 9)) }
        var seen: [UInt64] = []
        mirror.forEachRun(in: PageNumber(0)..<Geometry.endPage) { run in seen += run.pages.map(\.raw) }
        #expect(seen == places)
        #expect(mirror.invalidate(PageNumber(8)..<PageNumber(places[3]), keeping: .nothing, isBlockable: true))
        #expect(places.map { mirror.lookup(PageNumber($0)) != nil } == [true, false, false, true])
        #expect(mirror.checkInvariants() == [])
    }

    /// A thread that pins a dead directory in the tree must not make a populate wait for it.
    @Test("flaw 12: a dying directory is treated as empty, and replaced")
    func dyingDirectoryIsReplaced() throws {
        let mirror = RadixMirror(budget: 0)
        let tree = mirror.tree
        try mirror.commit(run(5, frame: 1))
        // Empty the directory behind the mirror's back and let it die without being unlinked.
        var iterator = DirectoryIterator(tree)
        let spot = iterator.descend(to: PageNumber(5))
        tree.pool.lock(spot.directory).pointee.lock()
        tree.pool.entries(spot.directory)[5].store(0, ordering: .relaxed)
        tree.entriesLeft(1, in: spot.directory)
        tree.pool.lock(spot.directory).pointee.unlock()
        mirror.counters.addLeaves(-1, level: 0)
        #expect(tree.kill(spot.directory))
        #expect(mirror.lookup(PageNumber(5)) == nil)
        #expect(mirror.invalidate(pages(0, 512), keeping: .nothing, isBlockable: true))
        try mirror.commit(run(6, frame: 2))
        #expect(mirror.lookup(PageNumber(6))?.frame.raw == 2)
        // The pruner comes late, finds another link, and only lets go of its own.
        let wasLinked = iterator.forgetDead(leaving: MirrorEntry(word: 0))
        iterator.finish()
        #expect(!wasLinked)
        #expect(mirror.lookup(PageNumber(6))?.frame.raw == 2)
        #expect(mirror.checkInvariants() == [])
    }

    @Test("flaw 13: dirty is collected in the step that clears")
    func dirtyIsNeverLost() throws {
        let mirror = RadixMirror(budget: 64, effects: recorder.effects)
        for mask in [MirrorKeepMask.nothing, .exceptWrite, .nothingAndPrune] {
            try mirror.commit(run(100, 4, frame: 1000))
            #expect(mirror.markDirty(PageNumber(101), through: mirror.lookup(PageNumber(101))!))
            #expect(mirror.invalidate(pages(100, 4), keeping: mask, isBlockable: true))
            #expect(recorder.takeDirty() == [PageNumber(101): FrameNumber(1001)])
            #expect(mirror.invalidate(pages(100, 4), keeping: .nothing, isBlockable: true))
            #expect(recorder.takeDirty() == [:])
        }
    }

    /// Every allocation fails once; whatever was protected is let go.
    @Test("flaw 16: a failed populate leaves nothing protected")
    func failedPopulateLeavesNothing() throws {
        let failure = AllocationFailure()
        var configuration = MirrorConfiguration()
        configuration.mayAllocate = failure.hook
        for number in 0..<3 {
            let mirror = RadixMirror(configuration)
            failure.failCall(number)
            #expect(throws: HMMError(.outOfMemory)) { try mirror.commit(run(5, frame: 1)) }
            #expect(mirror.statistics.directories == 1 && mirror.statistics.mappedPages == 0)
            #expect(mirror.checkInvariants() == [])
        }
    }
}
