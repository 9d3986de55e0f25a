import Testing

@testable import HMM

@Suite("Mirror: invariants")
struct MirrorInvariantTests {
    let recorder = RecordingEffects()

    @Test("INV-MT-2: empties stay within the budget, the oldest go first", arguments: [0, 1, 3, 64])
    func emptiesStayWithinTheBudget(budget: Int) throws {
        let mirror = RadixMirror(budget: budget)
        for index in 0..<100 as Range<UInt64> { try mirror.commit(run(index * 512, frame: 1)) }
        for index in 0..<100 as Range<UInt64> {
            #expect(mirror.invalidate(pages(index * 512), keeping: .nothing, isBlockable: true))
            #expect(mirror.checkInvariants() == [])
        }
        #expect(mirror.tree.empties.listedCount == budget)
        // root, and the two directories above the leaves as long as any is linked
        #expect(mirror.statistics.directories == (budget == 0 ? 1 : 3 + budget))
    }

    @Test("INV-MT-2, race 11: emptying and filling again does not allocate")
    func pingPongDoesNotAllocate() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(0, 512, frame: 1))
        let before = mirror.statistics.directoriesAllocated
        for _ in 0..<1000 {
            #expect(mirror.invalidate(pages(0, 512), keeping: .nothing, isBlockable: true))
            try mirror.commit(run(0, 512, frame: 1))
        }
        #expect(mirror.statistics.directoriesAllocated == before)
        #expect(mirror.checkInvariants() == [])
    }

    @Test("INV-MT-2: a range that goes away takes its directories along")
    func unmapPrunes() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(0, 2048, frame: 1))
        #expect(mirror.invalidate(pages(0, 1024), keeping: .nothing, isBlockable: true))
        #expect(mirror.statistics.directories == 7)
        #expect(mirror.invalidate(pages(0, 1600), keeping: .nothingAndPrune, isBlockable: true))
        #expect(mirror.statistics.directories == 4)
        #expect(mirror.invalidate(PageNumber(0)..<Geometry.endPage, keeping: .nothingAndPrune, isBlockable: true))
        #expect(mirror.statistics.directories == 1 && mirror.checkInvariants() == [])
    }

    @Test("INV-MT-5: entries, device, dirty report: in this order")
    func orderOfAnUpdate() throws {
        let mirror = RadixMirror(budget: 64, effects: recorder.effects)
        try mirror.commit(run(0, 8, frame: 10))
        for page in [2, 3, 6] as [UInt64] {
            #expect(mirror.markDirty(PageNumber(page), through: mirror.lookup(PageNumber(page))!))
        }
        #expect(mirror.invalidate(pages(1, 7), keeping: .exceptWrite, isBlockable: true))
        #expect(
            recorder.take() == [
                .shootdown([pages(1, 7)], isFull: false), .dirty(pages(2, 2), FrameNumber(12)),
                .dirty(pages(6), FrameNumber(16)),
            ])
        #expect(mirror.invalidate(pages(100), keeping: .nothing, isBlockable: true))
        #expect(recorder.take() == [], "nothing changed, nothing to tell")
        #expect(mirror.invalidate(pages(0, 8), keeping: .everything, isBlockable: true))
        #expect(mirror.statistics.mappedPages == 8 && recorder.take() == [])
    }

    /// More dirty runs than fit on the stack: each part is shot down before it is reported.
    @Test("INV-MT-6: any number of dirty runs is reported, once each")
    func manyDirtyRuns() throws {
        for mirror in [
            RadixMirror(budget: 64, effects: recorder.effects), FlatMirror(effects: recorder.effects),
            DriverMirror(DictionaryDriver(), effects: recorder.effects),
        ] as [any MirrorTable] {
            try mirror.commit(run(0, 1200, frame: 5000))
            var expected: [PageNumber: FrameNumber] = [:]
            for page in stride(from: UInt64(1), to: 1200, by: 3) {
                #expect(mirror.markDirty(PageNumber(page), through: mirror.lookup(PageNumber(page))!))
                expected[PageNumber(page)] = FrameNumber(5000 + UInt32(page))
            }
            mirror.harvestDirty(pages(0, 1200))
            let events = recorder.take()
            var shot: [PageRange] = []
            var seen: [PageNumber: FrameNumber] = [:]
            for event in events {
                switch event {
                case .shootdown(let ranges, let isFull): shot = isFull ? [pages(0, 1200)] : ranges
                case .dirty(let range, let frame):
                    #expect(shot.contains { $0.contains(range) })
                    for page in range { seen[page] = frame + range.lowerBound.distance(to: page) }
                }
            }
            #expect(seen == expected)
            mirror.harvestDirty(pages(0, 1200))
            #expect(recorder.take() == [])
            for page in expected.keys { #expect(mirror.markDirty(page, through: mirror.lookup(page)!)) }
            #expect(mirror.invalidate(pages(0, 1200), keeping: .nothing, isBlockable: true))
            #expect(recorder.takeDirty() == expected)
        }
    }

    @Test("dirty without write is refused, counted, and never reported")
    func dirtyWithoutWrite() throws {
        for mirror in [
            RadixMirror(budget: 64, effects: recorder.effects), FlatMirror(effects: recorder.effects),
            DriverMirror(DictionaryDriver(), effects: recorder.effects),
        ] as [any MirrorTable] {
            try mirror.commit(run(0, frame: 1, write: false))
            #expect(!mirror.markDirty(PageNumber(0), through: mirror.lookup(PageNumber(0))!))
            #expect(mirror.statistics.dirtyWithoutWrite == 1)
            #expect(mirror.invalidate(pages(0), keeping: .nothing, isBlockable: true))
            #expect(recorder.takeDirty() == [:])
        }
    }

    @Test("INV-MT-9: a walk visits each entry once, in order, and nothing outside the range")
    func walkVisitsOnceInOrder() throws {
        let mirror = RadixMirror()
        var generator = SeededGenerator(seed: mirrorTestSeed(9))
        var expected = Set<UInt64>()
        for _ in 0..<300 {
            let page = UInt64(generator.below(1 << 20))
            if mirror.lookup(PageNumber(page)) == nil { try mirror.commit(run(page, frame: 1)) }
            expected.insert(page)
        }
        for _ in 0..<50 {
            let low = UInt64(generator.below(1 << 20))
            let range = pages(low, generator.below(1 << 19))
            var seen: [UInt64] = []
            mirror.forEachRun(in: range) { seen += $0.pages.map(\.raw) }
            #expect(seen == expected.filter { range.contains(PageNumber($0)) }.sorted())
        }
    }

    @Test("INV-MT-10: invalidation allocates no directory")
    func invalidationDoesNotAllocate() throws {
        let failure = AllocationFailure()
        var configuration = MirrorConfiguration()
        configuration.mayAllocate = failure.hook
        let mirror = RadixMirror(configuration)
        try mirror.commit([run(0, 700, frame: 1), run(1024, 1024, frame: 1024, order: 9)])
        failure.failCall(-1)
        #expect(mirror.invalidate(pages(600, 1000), keeping: .nothing, isBlockable: true))
        #expect(mirror.invalidate(pages(0, 4000), keeping: .exceptWrite, isBlockable: false))
        #expect(mirror.invalidate(pages(0, 4000), keeping: .nothingAndPrune, isBlockable: false))
        #expect(failure.callCount == 0)
        #expect(mirror.checkInvariants() == [])
    }

    @Test("INV-MT-10: a non-blocking invalidation refuses with nothing changed while a call is inside")
    func nonBlockingRefuses() throws {
        let mirror = RadixMirror()
        try mirror.commit(run(0, 8, frame: 10))
        mirror.gate.enter()
        #expect(!mirror.invalidate(pages(0, 8), keeping: .nothing, isBlockable: false))
        #expect(mirror.statistics.mappedPages == 8)
        mirror.gate.leave()
        #expect(mirror.invalidate(pages(0, 8), keeping: .nothing, isBlockable: false))
        #expect(mirror.statistics.mappedPages == 0 && mirror.checkInvariants() == [])
    }

    @Test("INV-MT-11: memory per mirrored GiB")
    func memoryPerGibibyte() throws {
        let gibibyte = 1 << 18
        let small = RadixMirror()
        try small.commit(run(1 << 18, gibibyte, frame: 1 << 18))
        #expect(Double(small.statistics.bytes) <= 2.1 * 1024 * 1024)
        #expect(small.invalidate(small.geometry.allPages, keeping: .nothingAndPrune, isBlockable: true))
        #expect(small.statistics.directories == 1 && small.checkInvariants() == [])
        let huge = RadixMirror()
        try huge.commit(run(1 << 18, gibibyte, frame: 1 << 18, order: 9))
        #expect(huge.statistics.bytes <= 16 * 1024 && huge.statistics.hugeEntries == 512)
        let giant = RadixMirror()
        try giant.commit(run(1 << 18, gibibyte, frame: 1 << 18, order: 18))
        #expect(giant.statistics.hugeEntries == 1)
    }

    @Test("own device memory and peers keep runs and leaves apart")
    func locationsKeepApart() throws {
        let mirror = RadixMirror()
        try mirror.commit([run(0, 4, frame: 10), run(4, 4, frame: 14, location: .ownDevice)])
        var count = 0
        mirror.forEachRun(in: pages(0, 8)) { _ in count += 1 }
        #expect(count == 2)
        #expect(throws: HMMError(.inconsistent)) { try mirror.commit(run(0, frame: 10, location: .peer)) }
    }
}
