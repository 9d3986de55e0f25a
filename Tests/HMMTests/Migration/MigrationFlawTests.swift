import Synchronization
import Testing

@testable import HMM

/// The flaws of the 2026 patch that folded collection into the range fault's walk, as it was posted: one test each,
/// which its walk fails and ours passes. The numbers are those of the specification.
@Suite("Migration: flaws of the walk as posted")
struct MigrationFlawTests {
    private func isHuge(_ f: MigrationFixture, _ index: Int) -> Bool {
        f.space.leaf(f.pages(index..<index + 1).lowerBound)?.1 == .pmd
    }

    /// 512 written pages in one folio, mapped by one entry.
    private func hugeFixture(_ profile: KernelProfile = .next) throws -> MigrationFixture {
        let f = try MigrationFixture(.private, profile)
        try f.map(0..<512, huge: true)
        try f.base.write(0..<512, 1)
        return f
    }

    @Test("1, 2: a fault, or compound alone, selects nothing and is a plain range fault")
    func nothingSelected() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<2, 1)
        var request = MigrationRequest([.compound])
        request.fault = .fault
        let results = try f.withMigration(0..<4, request) { m in
            #expect(m.collectedCount == 0)
            return (0..<4).map { m[$0].isMigrating || !m[$0].result.isValid }
        }
        #expect(results == [false, false, false, false])
        #expect(f.layout(0..<4) == "sszz")
        f.finish()
    }

    @Test("3: a folio is referenced before the lock of its table is dropped")
    func referencedBeforeUnlock() throws {
        let f = try hugeFixture()
        let space = f.space
        let whole = f.pages(0..<512)
        // Another thread takes the folio away again and again while it is being split.
        let thread = SyncThread.spawn(name: "discard") {
            for _ in 0..<200 {
                try? space.advise(whole, .dontneed)
                let cpu = space.makeCPU()
                try? cpu.store(1, at: whole.lowerBound.address)
                space.removeCPU(cpu)
            }
        }
        for _ in 0..<200 {
            _ = try f.send(3..<5)
            _ = try f.fetch(0..<512)
        }
        thread.join()
        f.finish()
    }

    @Test("4, 7, 10: a locked huge page is passed over, at once, and without an error")
    func lockedFoliosArePassedOver() throws {
        for range in [0..<512, 3..<5] {
            let f = try hugeFixture()
            let head = f.entry(0)!.frame
            f.space.lockForReading()
            #expect(f.frames.tryLockFolio(head))
            try f.withMigrationNested(range, f.toFirst) { m in
                let page = m[0]
                #expect(!page.isMigrating && page.result.isValid && !page.result.isError)
            }
            #expect(isHuge(f, 0))
            f.frames.unlockFolio(head)
            f.space.unlockForReading()
            f.finish()
        }
    }

    @Test("5, 6: after a split, lock and reference of the caller are with the page that it faults on")
    func callersLockMovesWithItsPage() throws {
        let f = try hugeFixture()
        try f.send(0..<512)
        let head = f.entry(0)!.frame
        let frame = head + 200
        f.space.lockForReading()
        #expect(f.frames.tryLockFolio(head))
        f.frames.get(head)
        var request = f.fromFirst
        request.select.remove(.compound)
        request.faultFrame = frame
        try f.withMigrationNested(200..<201, request) { m in
            m.copyToSystem()
            m.commit()
            let isHome = m.hasMoved(0)
            #expect(isHome)
        }
        #expect(f.frames.isLocked(frame) && !f.frames.isLocked(head))
        #expect(f.frames.refCount(frame) == 1 && f.frames.refCount(head) == 1)
        f.frames.unlockFolio(frame)
        f.space.unlockForReading()
        f.frames.put(frame)
        #expect(f.layout(199..<202) == "1s1")
        f.checkInvariants()
        try f.base.expect(0..<512, 1)
        f.finish()
    }

    @Test("8: a huge entry that is not selected, or not present, is left, and the walk goes on")
    func foreignHugeEntriesAreLeft() throws {
        let f = try hugeFixture()
        try f.map(512..<516)
        try f.base.write(512..<516, 1)
        try f.send(0..<512, to: f.second)
        #expect(try f.send(100..<516).moved == 4)
        #expect(isHuge(f, 0) && f.layout(0..<1) == "2")
        f.finish()
    }

    @Test("9, 17: a folio that cannot be split costs its pages only", arguments: [false, true])
    func refusedSplitsAreNoErrors(isMappedByPages: Bool) throws {
        let f = try MigrationFixture()
        try f.map(0..<1024, huge: true)
        try f.base.write(0..<512, 1)
        try f.base.write(600..<604, 1)
        let head = f.entry(0)!.frame
        if isMappedByPages {
            f.space.splitHugeLeaf(around: f.pages(0..<1).lowerBound, in: f.space.vmas.all[0], always: true)
        }
        f.frames.get(head)
        #expect(try f.send(510..<606).moved == (f.layout(600..<601) == "1" ? 94 : 0))
        #expect(f.layout(510..<512) == "ss")
        f.frames.put(head)
        f.checkInvariants()
        try f.base.expect(0..<512, 1)
        try f.base.expect(600..<604, 1)
        f.finish()
    }

    @Test("11: a huge migration entry of somebody else is known as such before its frame is looked at")
    func migrationEntriesOfOthers() throws {
        let f = try hugeFixture()
        try f.withMigration(0..<512, f.toFirst) { (outer: borrowing Migration) throws(HMMError) in
            let first = outer[0]
            #expect(first.isUnit && first.isMigrating)
            try f.withMigrationNested(0..<512, f.toFirst) { inner in #expect(inner.collectedCount == 0) }
            try f.withMigrationNested(7..<9, f.toFirst) { inner in #expect(inner.collectedCount == 0) }
        }
        #expect(isHuge(f, 0))
        try f.base.expect(0..<512, 1)
        f.finish()
    }

    @Test("12: a pinned huge page is not split in vain")
    func pinnedHugePagesStayWhole() throws {
        let f = try hugeFixture()
        f.space.lockForReading()
        let frame = try f.space.reference(f.pages(9..<10).lowerBound, [.pin])
        f.space.unlockForReading()
        #expect(try f.send(0..<512).moved == 0)
        #expect(isHuge(f, 0))
        f.space.release(frame, [.pin])
        f.finish()
    }

    @Test("13: the first page of a piece does not speak for the others")
    func firstPageIsNotSpecial() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<4, 1)
        try f.space.advise(f.pages(0..<1), .pageout)
        #expect(try f.send(0..<4).moved == 3)
        #expect(f.layout(0..<4) == "S111")
        f.finish()
    }

    @Test("14: a page that cannot be shared keeps the lock of its caller")
    func callersLockSurvivesAPin() throws {
        let f = try MigrationFixture()
        try f.map(0..<1)
        try f.base.write(0..<1, 1)
        try f.send(0..<1)
        let frame = f.entry(0)!.frame
        f.space.lockForReading()
        #expect(f.frames.tryLockFolio(frame))
        f.frames.get(frame)
        f.frames.record(frame).pointee.pinCount.add(1, ordering: .relaxed)
        var request = f.fromFirst
        request.faultFrame = frame
        try f.withMigrationNested(0..<1, request) { m in #expect(m.collectedCount == 0) }
        #expect(f.frames.isLocked(frame) && f.frames.refCount(frame) == 2)
        f.frames.record(frame).pointee.pinCount.subtract(1, ordering: .relaxed)
        f.frames.unlockFolio(frame)
        f.space.unlockForReading()
        f.frames.put(frame)
        f.finish()
    }

    @Test("15: the bits of a private entry are not taken for dirty")
    func privateEntriesAreNotDirty() throws {
        let f = try MigrationFixture()
        try f.map(0..<1)
        try f.base.write(0..<1, 1)
        try f.send(0..<1)
        f.frames.clearFlags(f.entry(0)!.frame, FrameFlags.dirty)
        try f.fetch(0..<1)
        #expect(!f.frames.hasFlags(f.entry(0)!.frame, FrameFlags.dirty))
        #expect(!f.entry(0)!.isDirty)
        f.finish()
    }

    @Test("16: a unit that can move as one is not split")
    func unitsStayUnits() throws {
        let f = try hugeFixture()
        try f.send(0..<512)
        #expect(isHuge(f, 0))
        f.finish()
    }

    @Test("18: a page of zeros is told as a hole, and nothing else of its word is touched")
    func zeroPagesAreHoles() throws {
        let f = try MigrationFixture()
        try f.map(0..<2)
        try f.base.expect(0..<1, nil)
        let words = try f.withMigration(0..<2, f.toFirst) { m in [m[0].rawValue, m[1].rawValue] }
        #expect(words == [MigrationWord.migrate, MigrationWord.migrate])
        #expect(f.layout(0..<2) == "z.")
        f.finish()
    }

    @Test("19: translations are flushed once a table, not once a page")
    func oneFlushATable() throws {
        let f = try MigrationFixture()
        try f.map(0..<512)
        try f.base.write(0..<512, 1)
        let before = f.machine.statistics.tlbFlushes.count
        try f.withMigration(0..<512, f.toFirst) { m in #expect(m.collectedCount == 512) }
        #expect(f.machine.statistics.tlbFlushes.count == before + 1)
        f.finish()
    }

    /// ssss…  in one table, and a page that has failed in the next.
    @Test("20, 22, 23, INV-MG-12: an error puts everything back, and completes nothing")
    func errorsRestore() throws {
        let f = try MigrationFixture()
        try f.map(0..<1024)
        try f.base.write(0..<516, 1)
        let old = (0..<516).map { f.entry($0)!.frame }
        let failed = f.space.tables.lockPTE(f.pages(600..<601).lowerBound)!
        f.space.tables.set(failed, SoftLeaf.poison(FrameTable.zeroFrame).entry)
        f.space.tables.unlock(failed)
        var request = f.toFirst
        request.fault = .fault
        var isCalled = false
        try f.space.populateForTest(f.pages(516..<600))
        #expect(throws: HMMError(.badAddress)) {
            try f.withMigration(0..<1024, request) { _ in isCalled = true }
        }
        #expect(!isCalled)
        #expect((0..<516).map { f.entry($0)!.frame } == old)
        f.space.tables.lock(failed)
        _ = f.space.tables.exchange(failed, .empty)
        f.space.tables.unlock(failed)
        f.checkInvariants()
        try f.base.expect(0..<516, 1)
        f.finish()
    }

    @Test("21: what is asked for is checked before it is walked")
    func checkedFirst() throws {
        let f = try MigrationFixture()
        #expect(throws: HMMError(.invalidArgument)) { try f.withMigration(0..<1, f.toFirst) { _ in } }
        try f.map(0..<1)
        #expect(throws: HMMError(.invalidArgument)) { try f.withMigration(0..<0, f.toFirst) { _ in } }
        f.finish()
    }

    @Test("24: a write is asked for where the device wants to write")
    func writesAreFaulted() throws {
        let f = try MigrationFixture()
        try f.map(0..<2)
        try f.base.write(0..<2, 1)
        let child = try f.space.fork()
        var request = f.toFirst
        request.fault = [.fault, .write]
        try f.withMigration(0..<2, request) { m in
            #expect(m[0].isWritable && m[1].isWritable)
            m.copyToDevice(f.first.memory)
            m.commit()
        }
        #expect(f.isWritable(0))
        #expect(f.layout(0..<2) == "11" && f.layout(0..<2, in: child) == "ss")
        child.exit()
        f.finish()
    }

    /// ss… in one table, holes in the next: nobody faults with pages in hand.
    @Test("25, INV-MG-9: what the walk did not reach is not part of the migration")
    func partialWalks() throws {
        let f = try MigrationFixture()
        try f.map(0..<1024)
        try f.base.write(0..<4, 1)
        try f.base.write(513..<514, 1)
        var request = f.toFirst
        request.fault = [.fault, .write]
        try f.withMigration(0..<1024, request) { m in
            #expect(m.pages == f.pages(0..<512))
            #expect(m.collectedCount == 512)
            m.copyToDevice(f.first.memory)
            m.commit()
        }
        #expect(f.layout(510..<515) == "11.s.")
        #expect(try f.send(0..<1024, fault: [.fault, .write]).moved == 512)
        #expect(f.first.memory.usedFrames == 1024)
        f.finish()
    }

    @Test("26: the huge page of zeros migrates", arguments: [KernelProfile.linux6_12, .next])
    func hugeZerosMigrate(profile: KernelProfile) throws {
        let f = try MigrationFixture(.private, profile)
        try f.map(0..<512, huge: true)
        try f.base.expect(0..<1, nil)
        #expect(try f.send(0..<512).filled == 512)
        #expect(f.layout(0..<1) == "1")
        try f.base.expect(0..<512, nil)
        f.finish()
    }

    @Test("27: a sequence that moved has an error of its own, and everything is back")
    func movedSequence() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<4, 1)
        let client = RecordingClient()
        let interval = try f.space.notifiers.insert(client, over: f.pages(0..<4))
        var request = f.toFirst
        request.interval = interval
        request.sequence = interval.readBegin()
        try f.space.protect(f.pages(0..<4), .read)
        #expect(throws: HMMError(.busy)) { try f.withMigration(0..<4, request) { _ in } }
        #expect(f.layout(0..<4) == "ssss")
        interval.remove()
        f.finish()
    }
}

extension MigrationFixture {
    /// A migration inside another one's, under the same hold of the mmap lock.
    func withMigrationNested(
        _ range: Range<Int>, _ request: MigrationRequest, _ body: (borrowing Migration) -> Void
    ) throws(HMMError) {
        try space.withMigration(pages(range), request) { (m: borrowing Migration) throws(HMMError) in body(m) }
    }
}

extension AddressSpace {
    func populateForTest(_ pages: PageRange) throws(HMMError) { try advise(pages, .populateWrite) }
}
