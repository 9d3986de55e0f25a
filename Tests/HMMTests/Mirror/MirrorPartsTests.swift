import Testing

@testable import HMM

@Suite("Mirror: entries, geometry, runs, masks")
struct MirrorPartsTests {
    @Test func entryKeepsEveryField() {
        let entry = MirrorEntry(
            frame: FrameNumber(0xffff_fffe), isWritable: true, isAtomic: true, location: .peer, isDirty: true)
        #expect(entry.isValid && entry.isWritable && entry.isAtomic && entry.isDirty && !entry.isDeviceAddress)
        #expect(entry.frame == FrameNumber(0xffff_fffe) && entry.location == .peer && entry.order == 0)
        #expect(MirrorEntry(frame: FrameNumber(512), isWritable: false, level: 2).order == 18)
        let address = entry.convertedToDeviceAddress(offset: 1 << 36)
        #expect(address.isDeviceAddress && address.isValid && address.isWritable && address.isDirty)
        #expect(address.payload == 0xffff_fffe + 1 << 36)
        #expect(address.frame(deviceAddressOffset: 1 << 36) == FrameNumber(0xffff_fffe))
    }

    @Test func directoryLinkIsNotValid() {
        let link = MirrorEntry.directory(77)
        #expect(link.isDirectory && !link.isValid && link.directoryIndex == 77)
    }

    @Test func accessNeedsItsRight() {
        let readOnly = MirrorEntry(frame: FrameNumber(1), isWritable: false)
        let plain = MirrorEntry(frame: FrameNumber(1), isWritable: true)
        let own = MirrorEntry(frame: FrameNumber(1), isWritable: true, location: .ownDevice)
        let atomic = MirrorEntry(frame: FrameNumber(1), isWritable: true, isAtomic: true)
        #expect(readOnly.allows(.read) && !readOnly.allows(.write) && !readOnly.allows(.atomic))
        #expect(plain.allows(.write) && !plain.allows(.atomic))
        #expect(own.allows(.atomic) && atomic.allows(.atomic) && atomic.allows(.write))
    }

    @Test(
        "flaw 17: levels follow from the last page, inclusively",
        arguments: [
            (0, 1), (511, 1), (512, 2), (1 << 18 - 1, 2), (1 << 18, 3), (1 << 27 - 1, 3), (1 << 27, 4),
            (1 << 36 - 1, 4),
        ] as [(UInt64, Int)])
    func levelsFollowFromLastPage(last: UInt64, levels: Int) {
        #expect(MirrorGeometry(lastPage: PageNumber(last)).levels == levels)
    }

    @Test func leafLevelNeedsAlignmentOrderAndLength() {
        let geometry = MirrorGeometry(lastPage: PageNumber(1 << 36 - 1))
        func level(_ run: MirrorRun) -> Int { geometry.leafLevel(of: run, at: run.pages.lowerBound) }
        #expect(level(run(512, 512, frame: 1024, order: 9)) == 1)
        #expect(level(run(512, 511, frame: 1024, order: 9)) == 0)
        #expect(level(run(512, 512, frame: 1025, order: 9)) == 0)
        #expect(level(run(513, 512, frame: 1025, order: 9)) == 0)
        #expect(level(run(512, 512, frame: 1024, order: 4)) == 0)
        #expect(level(run(1 << 18, 1 << 18, frame: 1 << 18, order: 18)) == 2)
        #expect(level(run(1 << 18, 1 << 18, frame: 1 << 18, order: 9)) == 1)
        #expect(MirrorGeometry(lastPage: PageNumber(511)).highestLeafLevel == 0)
    }

    @Test func builderMakesMaximalRuns() {
        var builder = MirrorRunBuilder()
        builder.append(run(10, frame: 100))
        builder.append(run(11, 2, frame: 101))
        builder.append(run(13, frame: 103, write: false))
        builder.append(run(14, frame: 104, write: false))
        builder.append(run(16, frame: 106, write: false))
        builder.append(run(17, frame: 200, write: false))
        builder.breakRun()
        builder.append(run(18, frame: 201, write: false))
        builder.append(run(19, frame: 202, write: false, location: .ownDevice))
        builder.append(run(20, frame: 203, write: false, order: 4, location: .ownDevice))
        #expect(
            builder.runs == [
                run(10, 3, frame: 100), run(13, 2, frame: 103, write: false), run(16, frame: 106, write: false),
                run(17, frame: 200, write: false), run(18, frame: 201, write: false),
                run(19, frame: 202, write: false, location: .ownDevice),
                run(20, frame: 203, write: false, order: 4, location: .ownDevice),
            ])
        #expect(run(10, 8, frame: 100).clipped(to: pages(12, 100)) == run(12, 6, frame: 102))
    }

    @Test func eventsChooseTheirMasks() {
        let own = NotifierOwner(device: 1, mirror: 1)
        let other = NotifierOwner(device: 1, mirror: 2)
        func mask(
            _ event: InvalidationEvent, _ owner: NotifierOwner? = nil, rights: Protection? = nil
        ) -> MirrorKeepMask {
            .forEvent(.init(event, pages(0), owner: owner, newProtection: rights), owner: own)
        }
        #expect(mask(.unmap) == .nothingAndPrune && mask(.release) == .nothingAndPrune)
        #expect(mask(.clear) == .nothing)
        #expect(mask(.migrate, own) == .nothing && mask(.migrate, other) == .nothing)
        #expect(mask(.protectionPage) == .exceptWrite && mask(.softDirty) == .exceptWrite)
        #expect(mask(.protectionVMA) == .nothing)
        #expect(mask(.protectionVMA, rights: Protection.none) == .nothing)
        #expect(mask(.protectionVMA, rights: .execute) == .nothing)
        #expect(mask(.protectionVMA, rights: .read) == .exceptWrite)
        #expect(mask(.protectionVMA, rights: .readWrite) == .everything)
        #expect(mask(.exclusive, own) == .everything)
        #expect(mask(.exclusive, other) == .nothing && mask(.exclusive) == .nothing)
    }

    @Test func maskLeavesNoDirtWithoutWrite() {
        let dirty = MirrorEntry(frame: FrameNumber(5), isWritable: true, isDirty: true)
        let kept = MirrorKeepMask.exceptWrite.applied(to: dirty)
        #expect(kept.isValid && !kept.isWritable && !kept.isDirty && kept.frame == FrameNumber(5))
        #expect(MirrorKeepMask.nothing.applied(to: dirty).word == 0)
        let atomic = MirrorEntry(frame: FrameNumber(5), isWritable: true, isAtomic: true)
        #expect(MirrorKeepMask.exceptWrite.applied(to: atomic).word == 0)
    }

    @Test func shootdownJoinsNeighboursAndBecomesFull() {
        var shootdown = MirrorShootdown()
        shootdown.add(pages(0, 4))
        shootdown.add(pages(4, 4))
        #expect(shootdown.count == 1 && shootdown[0] == pages(0, 8))
        for index in 1..<UInt64(MirrorShootdown.rangeLimit) { shootdown.add(pages(index * 100)) }
        #expect(!shootdown.isFull && !shootdown.overlaps(pages(50)))
        shootdown.add(pages(10_000))
        #expect(shootdown.isFull && shootdown.overlaps(pages(50)))
    }
}
