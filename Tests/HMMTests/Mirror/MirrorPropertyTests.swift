import Testing

@testable import HMM

/// Random commits, invalidations, dirty marks and harvests against a flat dictionary.
///
/// `HMM_SEED` sets the seed; a failure prints it.
@Suite("Mirror: random operations")
struct MirrorPropertyTests {
    /// The dictionary that knows best.
    private struct Model {
        var entries: [PageNumber: MirrorEntry] = [:]
        /// Dirty pages and their frames that must have been reported.
        var dirty: [PageNumber: FrameNumber] = [:]

        mutating func commit(_ run: MirrorRun) {
            for page in run.pages {
                let old = entries[page]
                entries[page] = MirrorEntry(
                    frame: run.frame(at: page), isWritable: run.isWritable || old?.isWritable == true,
                    isAtomic: run.isAtomic, location: run.location, isDirty: old?.isDirty == true)
            }
        }

        mutating func invalidate(_ range: PageRange, _ mask: MirrorKeepMask) {
            for (page, entry) in entries where range.contains(page) {
                let new = mask.applied(to: entry)
                if entry.isDirty && !new.isDirty { dirty[page] = entry.frame }
                entries[page] = new.isValid ? new : nil
            }
        }

        mutating func harvest(_ range: PageRange) {
            for (page, entry) in entries where range.contains(page) && entry.isDirty {
                dirty[page] = entry.frame
                entries[page] = MirrorEntry(word: entry.word & ~MirrorEntry.dirtyBit)
            }
        }
    }

    /// Pages used: a few directories, so that operations meet; frames are a function of the page, so that no commit
    /// conflicts.
    private static let span = 512 * 6

    private static func frame(_ page: UInt64) -> UInt32 { UInt32(page) + 512 * 100 }

    private static func randomRun(_ generator: inout SeededGenerator, order: Int) -> MirrorRun {
        let write = generator.chance(1, in: 2)
        if order == 9 {
            let first = UInt64(generator.below(6)) * 512
            let count = generator.chance(1, in: 4) ? 1024 : 512
            let end = min(Int(first) + count, span)
            return run(first, end - Int(first), frame: frame(first), write: write, order: 9)
        }
        let first = UInt64(generator.below(span))
        let count = min(span - Int(first), generator.chance(1, in: 3) ? 700 : 1 + generator.below(20))
        let atomic = generator.chance(1, in: 10)
        return run(first, count, frame: frame(first), write: write || atomic, atomic: atomic)
    }

    private static func randomRange(_ generator: inout SeededGenerator) -> PageRange {
        let first = UInt64(generator.below(span))
        return pages(first, min(span - Int(first), generator.chance(1, in: 4) ? 1500 : 1 + generator.below(60)))
    }

    private static func randomMask(_ generator: inout SeededGenerator) -> MirrorKeepMask {
        [.nothing, .nothing, .exceptWrite, .nothingAndPrune][generator.below(4)]
    }

    @Test("INV-MT-12: three implementations and a dictionary agree", arguments: [1, 2, 3] as [UInt64])
    func threeImplementationsAgree(standard: UInt64) throws {
        let seed = mirrorTestSeed(standard)
        var generator = SeededGenerator(seed: seed)
        let recorders = [RecordingEffects(), RecordingEffects(), RecordingEffects(), RecordingEffects()]
        let radix = RadixMirror(budget: 2, effects: recorders[0].effects)
        let tables: [any MirrorTable] = [
            radix, FlatMirror(effects: recorders[1].effects),
            DriverMirror(DictionaryDriver(), effects: recorders[2].effects),
            RadixMirror(budget: 0, lastPage: UInt64(Self.span) - 1, effects: recorders[3].effects),
        ]
        var model = Model()
        for step in 0..<150 {
            switch generator.below(10) {
            case 0..<4:
                let run = Self.randomRun(&generator, order: 0)
                model.commit(run)
                for table in tables { try table.commit(run) }
            case 4..<7:
                let (range, mask) = (Self.randomRange(&generator), Self.randomMask(&generator))
                let isBlockable = generator.chance(1, in: 2)
                model.invalidate(range, mask)
                for table in tables { #expect(table.invalidate(range, keeping: mask, isBlockable: isBlockable)) }
            case 7..<9:
                for _ in 0..<20 {
                    let page = PageNumber(UInt64(generator.below(Self.span)))
                    guard let entry = model.entries[page], entry.isWritable else { continue }
                    model.entries[page] = MirrorEntry(word: entry.word | MirrorEntry.dirtyBit)
                    for table in tables { #expect(table.markDirty(page, through: table.lookup(page)!)) }
                }
            default:
                let range = Self.randomRange(&generator)
                model.harvest(range)
                for table in tables { table.harvestDirty(range) }
            }
            for (table, recorder) in zip(tables, recorders) {
                #expect(recorder.takeDirty() == model.dirty, "HMM_SEED=\(seed), step \(step), \(type(of: table))")
                #expect(table.checkInvariants() == [], "HMM_SEED=\(seed), step \(step)")
                #expect(table.statistics.mappedPages == model.entries.count)
            }
            model.dirty = [:]
            if step % 20 == 0 { compare(tables, model, "HMM_SEED=\(seed), step \(step)") }
        }
        compare(tables, model, "HMM_SEED=\(seed), end")
    }

    private func compare(_ tables: [any MirrorTable], _ model: Model, _ place: String) {
        for table in tables {
            var seen = 0
            for page in pages(0, Self.span) where table.lookup(page) != model.entries[page] { seen += 1 }
            #expect(seen == 0, "\(place): \(seen) pages of \(type(of: table)) differ")
            var runs: [PageNumber: FrameNumber] = [:]
            table.forEachRun(in: pages(0, Self.span)) { run in
                for page in run.pages { runs[page] = run.frame(at: page) }
            }
            #expect(runs == model.entries.mapValues(\.frame), "\(place): runs of \(type(of: table))")
        }
    }

    /// With huge leaves: more may be dropped than was asked for (whole leaves around the range), and dirty counts for
    /// the whole leaf; never less.
    @Test("huge leaves: never more rights, never less dirt", arguments: [11, 12, 13, 14] as [UInt64])
    func hugeLeaves(standard: UInt64) throws {
        let seed = mirrorTestSeed(standard)
        var generator = SeededGenerator(seed: seed)
        let recorder = RecordingEffects()
        let mirror = RadixMirror(budget: generator.below(4), effects: recorder.effects)
        var model = Model()
        for step in 0..<250 {
            let place = "HMM_SEED=\(seed), step \(step)"
            switch generator.below(10) {
            case 0..<4:
                let run = Self.randomRun(&generator, order: generator.chance(1, in: 2) ? 9 : 0)
                model.commit(run)
                try mirror.commit(run)
            case 4..<7:
                let (range, mask) = (Self.randomRange(&generator), Self.randomMask(&generator))
                model.invalidate(range, mask)
                #expect(mirror.invalidate(range, keeping: mask, isBlockable: true))
            case 7..<9:
                for _ in 0..<20 {
                    let page = PageNumber(UInt64(generator.below(Self.span)))
                    guard let own = mirror.lookup(page), own.isWritable, let entry = model.entries[page] else {
                        continue
                    }
                    model.entries[page] = MirrorEntry(word: entry.word | MirrorEntry.dirtyBit)
                    #expect(mirror.markDirty(page, through: own), "\(place)")
                }
            default:
                let range = Self.randomRange(&generator)
                model.harvest(range)
                mirror.harvestDirty(range)
            }
            let reported = recorder.takeDirty()
            let missing = model.dirty.filter { reported[$0.key] != $0.value }
            let foreign = reported.filter { $0.value.raw != Self.frame($0.key.raw) }
            #expect(missing.isEmpty && foreign.isEmpty, "\(place): not reported \(missing), wrong \(foreign)")
            model.dirty = [:]
            followLargerEffects(of: mirror, reported, &model, place)
            #expect(mirror.checkInvariants() == [], "\(place)")
        }
    }

    /// Takes over into the model what a leaf lost or reported beyond the range, after checking that it may.
    private func followLargerEffects(
        of mirror: RadixMirror, _ reported: [PageNumber: FrameNumber], _ model: inout Model, _ place: String
    ) {
        var wrong: [String] = []
        for page in pages(0, Self.span) {
            let own = mirror.lookup(page)
            guard let known = model.entries[page] else {
                if own != nil { wrong.append("\(page) has rights that were taken") }
                continue
            }
            let isDirtLost = known.isDirty && own?.isDirty != true && reported[page] == nil
            if isDirtLost { wrong.append("dirt of \(page) is lost") }
            guard let own else {
                model.entries[page] = nil
                continue
            }
            let isMore = own.frame != known.frame || own.rights > known.rights
            if isMore { wrong.append("\(page): \(own), should be \(known)") }
            model.entries[page] = MirrorEntry(
                frame: own.frame, isWritable: own.isWritable, isAtomic: own.isAtomic, isDirty: own.isDirty)
        }
        #expect(wrong == [], "\(place)")
    }

    @Test("allocation failure at every n: a typed error, nothing protected, nothing wrong")
    func allocationFailureAtEveryN() throws {
        let failure = AllocationFailure()
        var configuration = MirrorConfiguration()
        configuration.mayAllocate = failure.hook
        configuration.emptyBudget = 1
        var number = 0
        var isFailing = true
        while isFailing {
            isFailing = false
            let mirror = RadixMirror(configuration)
            failure.failCall(number)
            var model = Model()
            var generator = SeededGenerator(seed: 5)
            for _ in 0..<60 {
                if generator.chance(2, in: 3) {
                    let run = Self.randomRun(&generator, order: generator.chance(1, in: 2) ? 9 : 0)
                    do throws(HMMError) {
                        try mirror.commit(run)
                    } catch {
                        #expect(error == HMMError(.outOfMemory))
                    }
                    model.commit(run)
                } else {
                    let range = Self.randomRange(&generator)
                    model.invalidate(range, .nothing)
                    #expect(mirror.invalidate(range, keeping: .nothing, isBlockable: true))
                }
                #expect(mirror.checkInvariants() == [], "allocation \(number)")
                let wrong = pages(0, Self.span).filter { page in
                    mirror.lookup(page).map { $0.frame != model.entries[page]?.frame } ?? false
                }
                #expect(wrong == [], "allocation \(number)")
            }
            isFailing = failure.callCount > number
            mirror.tearDown()
            #expect(mirror.statistics.directories == 1 && mirror.checkInvariants() == [])
            number += 1
        }
        #expect(number > 10)
    }
}

extension MirrorEntry {
    /// Comparable rights: read < write < atomic.
    fileprivate var rights: Int { isAtomic ? 2 : isWritable ? 1 : 0 }
}
