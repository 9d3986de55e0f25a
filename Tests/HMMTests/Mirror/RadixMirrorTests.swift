import Testing

@testable import HMM

@Suite("RadixMirror")
struct RadixMirrorTests {
    let recorder = RecordingEffects()

    private func frames(_ mirror: some MirrorTable, _ range: PageRange) -> [UInt32?] {
        range.map { mirror.lookup($0)?.frame.raw }
    }

    @Test func storesAndFindsAcrossDirectories() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(500, 600, frame: 1000))
        #expect(mirror.lookup(PageNumber(499)) == nil && mirror.lookup(PageNumber(1100)) == nil)
        for page in pages(500, 600) { #expect(mirror.lookup(page)?.frame.raw == UInt32(page.raw) + 500) }
        #expect(mirror.statistics.mappedPages == 600)
        #expect(mirror.statistics.directories == 6)
        #expect(mirror.checkInvariants() == [])
    }

    @Test func topOfTheAddressSpaceIsAPageLikeAnyOther() throws {
        let mirror = RadixMirror()
        let last = Geometry.endPage.raw - 1
        try mirror.commit(run(last, frame: 7))
        #expect(mirror.lookup(PageNumber(last))?.frame.raw == 7)
        #expect(mirror.invalidate(PageNumber(0)..<Geometry.endPage, keeping: .nothing, isBlockable: true))
        #expect(mirror.lookup(PageNumber(last)) == nil)
        #expect(mirror.checkInvariants() == [])
    }

    @Test(arguments: [0, 511, 512, 1 << 18, 1 << 27] as [UInt64])
    func everyNumberOfLevelsWorks(last: UInt64) throws {
        let mirror = RadixMirror(budget: 0, lastPage: last)
        try mirror.commit(run(last, frame: 3))
        #expect(mirror.lookup(PageNumber(last))?.frame.raw == 3)
        #expect(throws: HMMError(.invalidArgument)) { try mirror.commit(run(last + 1, frame: 4)) }
        #expect(mirror.lookup(PageNumber(last + 1)) == nil)
        mirror.tearDown()
        #expect(mirror.statistics.mappedPages == 0 && mirror.statistics.directories == 1)
        #expect(mirror.checkInvariants() == [])
    }

    @Test func rightsAreOnlyAdded() throws {
        let mirror = RadixMirror(budget: 64, effects: recorder.effects)
        try mirror.commit(run(8, 4, frame: 80, write: false))
        try mirror.commit(run(9, 2, frame: 81, write: true))
        try mirror.commit(run(8, 4, frame: 80, write: false))
        #expect(pages(8, 4).map { mirror.lookup($0)!.isWritable } == [false, true, true, false])
        #expect(recorder.take() == [])
        #expect(mirror.checkInvariants() == [])
    }

    @Test func plainRunTakesTheAtomicTagAway() throws {
        let mirror = RadixMirror(budget: 64, effects: recorder.effects)
        try mirror.commit(run(8, frame: 80, atomic: true))
        #expect(mirror.lookup(PageNumber(8))!.allows(.atomic))
        try mirror.commit(run(8, frame: 80))
        #expect(!mirror.lookup(PageNumber(8))!.allows(.atomic))
        #expect(recorder.take() == [.shootdown([pages(8)], isFull: false)])
        let huge = run(512, 512, frame: 512, order: 9, atomic: true)
        let readOnly = run(8, frame: 80, write: false, atomic: true)
        for wrong in [huge, readOnly] {
            #expect(throws: HMMError(.invalidArgument)) { try mirror.commit(wrong) }
        }
    }

    @Test func hugeRunIsOneWord() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(512, 1024, frame: 2048, order: 9))
        #expect(mirror.statistics.hugeEntries == 2 && mirror.statistics.mappedPages == 1024)
        #expect(mirror.statistics.directories == 3)
        #expect(mirror.lookup(PageNumber(1000))?.frame == FrameNumber(2048 + 488))
        #expect(mirror.lookup(PageNumber(1000))?.order == 9)
        try mirror.commit(run(1 << 18, 1 << 18, frame: 1 << 19, order: 18))
        #expect(mirror.lookup(PageNumber(1 << 18 + 12345))?.frame == FrameNumber(1 << 19 + 12345))
        #expect(mirror.lookup(PageNumber(1 << 18 + 12345))?.order == 18)
        #expect(mirror.statistics.directories == 3)
        #expect(mirror.checkInvariants() == [])
    }

    @Test func fullDirectoryIsPromotedAtCommit() throws {
        let mirror = RadixMirror(budget: 64, effects: recorder.effects)
        try mirror.commit(run(512, 512, frame: 1024))
        #expect(mirror.statistics.hugeEntries == 0)
        #expect(mirror.markDirty(PageNumber(600), through: mirror.lookup(PageNumber(600))!))
        try mirror.commit(run(512, 512, frame: 1024, write: false, order: 9))
        #expect(mirror.statistics.hugeEntries == 1 && mirror.statistics.promotions == 1)
        #expect(mirror.lookup(PageNumber(700))!.isWritable && !mirror.lookup(PageNumber(600))!.isDirty)
        // Dirty was reported for the whole leaf, after the shootdown.
        #expect(
            recorder.take() == [
                .shootdown([pages(512, 512)], isFull: false), .dirty(pages(512, 512), FrameNumber(1024)),
            ])
        #expect(mirror.checkInvariants() == [])
    }

    @Test func directoryWithMoreRightsOrDriverBitsIsNotPromoted() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(512, 512, frame: 1024, write: false))
        try mirror.commit(run(512, frame: 1024))
        try mirror.commit(run(512, 512, frame: 1024, write: false, order: 9))
        #expect(mirror.statistics.hugeEntries == 0 && mirror.lookup(PageNumber(512))!.isWritable)
        try mirror.commit(run(1024, 512, frame: 2048))
        #expect(mirror.setDriverBits(2, of: PageNumber(1030)))
        try mirror.commit(run(1024, 512, frame: 2048, order: 9))
        #expect(mirror.statistics.hugeEntries == 0 && mirror.lookup(PageNumber(1030))!.driverBits == 2)
        #expect(mirror.checkInvariants() == [])
    }

    @Test func partOfALeafIsDemotedWithTheSpare() throws {
        let mirror = RadixMirror(budget: 64, effects: recorder.effects)
        try mirror.commit(run(512, 512, frame: 1024, order: 9))
        #expect(mirror.markDirty(PageNumber(900), through: mirror.lookup(PageNumber(900))!))
        #expect(mirror.invalidate(pages(600, 3), keeping: .nothing, isBlockable: true))
        #expect(mirror.statistics.demotions == 1 && mirror.statistics.mappedPages == 509)
        #expect(frames(mirror, pages(598, 6)) == [1110, 1111, nil, nil, nil, 1115])
        // The shootdown grows to the leaf, and so does dirty.
        #expect(
            recorder.take() == [
                .shootdown([pages(512, 512)], isFull: false), .dirty(pages(512, 512), FrameNumber(1024)),
            ])
        #expect(mirror.checkInvariants() == [])
        // The device faults the hole in again, with the CPU's leaf still whole: promoted.
        try mirror.commit(run(512, 512, frame: 1024, order: 9))
        #expect(mirror.statistics.hugeEntries == 1 && mirror.checkInvariants() == [])
    }

    @Test func partOfALeafWithoutSpareDropsTheLeaf() throws {
        let failure = AllocationFailure()
        var configuration = MirrorConfiguration()
        configuration.mayAllocate = failure.hook
        let mirror = RadixMirror(configuration)
        failure.failCall(0)
        try mirror.commit(run(512, 512, frame: 1024, order: 9))
        #expect(mirror.invalidate(pages(600), keeping: .nothing, isBlockable: true))
        #expect(mirror.statistics.mappedPages == 0 && mirror.statistics.wholeLeafDrops == 1)
        #expect(mirror.checkInvariants() == [])
    }

    @Test func partOfAGigabyteLeaf() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(1 << 18, 1 << 18, frame: 1 << 18, order: 18))
        let page = PageNumber(1 << 18 + 700)
        #expect(mirror.invalidate(page..<page.advanced(by: 1), keeping: .nothing, isBlockable: true))
        // Demoted once, with the only spare; the 2 MiB piece went as a whole.
        #expect(mirror.lookup(page) == nil)
        #expect(mirror.statistics.mappedPages == 1 << 18 - 512 && mirror.statistics.hugeEntries == 511)
        #expect(mirror.checkInvariants() == [])
    }

    @Test func writeProtectionOfPartOfAReadOnlyLeafChangesNothing() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(512, 512, frame: 1024, write: false, order: 9))
        #expect(mirror.invalidate(pages(600), keeping: .exceptWrite, isBlockable: true))
        #expect(mirror.statistics.hugeEntries == 1 && mirror.statistics.demotions == 0)
    }

    @Test func smallRunUnderALeaf() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(512, 512, frame: 1024, write: false, order: 9))
        try mirror.commit(run(600, 4, frame: 1112, write: false))
        #expect(mirror.statistics.hugeEntries == 1)
        // More rights for a part: the rest of the leaf must not get them.
        try mirror.commit(run(600, 4, frame: 1112, write: true))
        #expect(mirror.statistics.hugeEntries == 0 && mirror.statistics.mappedPages == 512)
        #expect(pages(599, 6).map { mirror.lookup($0)!.isWritable } == [false, true, true, true, true, false])
        #expect(mirror.checkInvariants() == [])
    }

    @Test func forEachRunJoinsAndClips() throws {
        let mirror = RadixMirror()
        try mirror.commit([
            run(500, 20, frame: 1000), run(600, frame: 50, write: false), run(1024, 512, frame: 2048, order: 9),
        ])
        var found: [MirrorRun] = []
        mirror.forEachRun(in: pages(505, 600)) { found.append($0) }
        #expect(
            found == [
                run(505, 15, frame: 1005), run(600, frame: 50, write: false), run(1024, 81, frame: 2048, order: 9),
            ])
    }

    @Test func deviceAddressesReplaceFramesInPlace() throws {
        var configuration = MirrorConfiguration()
        configuration.deviceAddressOffset = 1 << 40
        let mirror = RadixMirror(configuration, effects: recorder.effects)
        try mirror.commit(run(512, 520, frame: 1024, order: 9))
        #expect(mirror.setDriverBits(1, of: PageNumber(513)))
        #expect(mirror.markDirty(PageNumber(1030), through: mirror.lookup(PageNumber(1030))!))
        mirror.convertToDeviceAddresses(pages(0, 2000))
        let huge = mirror.lookup(PageNumber(513))!
        #expect(huge.isDeviceAddress && huge.payload == 1025 + 1 << 40 && huge.isWritable && huge.driverBits == 1)
        // The same run again is no conflict.
        try mirror.commit(run(512, 520, frame: 1024, order: 9))
        #expect(mirror.checkInvariants() == [])
        _ = recorder.take()
        #expect(mirror.invalidate(pages(0, 2000), keeping: .nothing, isBlockable: true))
        #expect(recorder.takeDirty() == [PageNumber(1030): FrameNumber(1542)])
    }

    @Test func memoryGoesBackToTheHost() throws {
        let mirror = RadixMirror()
        for index in 0..<200 { try mirror.commit(run(UInt64(index) * 512, frame: 9)) }
        #expect(mirror.invalidate(pages(0, 512 * 200), keeping: .nothing, isBlockable: true))
        #expect(mirror.shrink() >= 200 * 4096)
        #expect(mirror.statistics.directories == 1 && mirror.checkInvariants() == [])
        try mirror.commit(run(3, frame: 9))
        #expect(mirror.checkInvariants() == [])
    }

    @Test func overlappingTearDownsFindAnEmptyTable() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(0, 5000, frame: 1))
        let threads = (0..<2).map { index in SyncThread.spawn(name: "teardown \(index)") { mirror.tearDown() } }
        threads.forEach { $0.join() }
        #expect(mirror.statistics.mappedPages == 0 && mirror.statistics.directories == 1)
        #expect(mirror.checkInvariants() == [])
    }
}
