import Foundation
import Synchronization
import Testing

@testable import HMM

/// The invariants of the address space that `Machine.checkInvariants` cannot see in a single state.
@Suite("Address space: invariants")
struct AddressSpaceInvariantTests {
    private static let seed = ProcessInfo.processInfo.environment["HMM_SEED"].flatMap { UInt64($0) } ?? 7

    @Test("INV-AS-4: pages of zeros are not counted, not writable, and stay zero")
    func zeroPages() throws {
        let f = try Fixture()
        try f.space.map(f.pages(0..<4), protection: .readWrite, kind: .anonymous())
        try f.expect(0..<4, nil)
        #expect(f.machine.frames.system.usedFrames == 0)
        let child = try f.space.fork()
        try f.write(1..<2, 5)
        #expect(f.machine.frames.system.usedFrames == 1)
        #expect(f.machine.frames.isZero(FrameTable.zeroFrame))
        f.checkInvariants()
        child.exit()
        f.finish()
    }

    /// Random operations on one process and its children, and the same on flat arrays of values.
    @Test("INV-AS-5, INV-AS-6: every process reads what it wrote last", arguments: 0..<6)
    func flatModel(_ round: Int) throws {
        let seed = Self.seed &+ UInt64(round) &* 1_000_003
        var random = SeededRandom(seed)
        let f = try Fixture { $0.profile = round % 2 == 0 ? .linux6_12 : .next }
        let count = 1024
        try f.space.map(f.pages(0..<count), protection: .readWrite, kind: .anonymous(huge: round % 3 != 0))
        var processes: [(space: AddressSpace, cpu: CPU, values: [UInt64])] = [
            (f.space, f.cpu, Array(repeating: 0, count: count))
        ]
        for step in 1...400 {
            let p = random.below(processes.count)
            let low = random.below(count)
            let range = low..<min(count, low + 1 + random.below(80))
            let (space, cpu) = (processes[p].space, processes[p].cpu)
            switch random.below(11) {
            case 0...2:
                for i in range {
                    try cpu.store(UInt64(step), at: f.pages(i..<i + 1).lowerBound.address)
                    processes[p].values[i] = UInt64(step)
                }
            case 3...5:
                for i in range {
                    let value = try cpu.load(f.pages(i..<i + 1).lowerBound.address)
                    #expect(value == processes[p].values[i], "page \(i), step \(step), HMM_SEED=\(seed)")
                }
            case 6:
                try space.advise(f.pages(range), .dontneed)
                for i in range { processes[p].values[i] = 0 }
            case 7: try space.advise(f.pages(range), .pageout)
            case 8:
                try space.protect(f.pages(range), .read)
                #expect(throws: AccessFault.segmentationFault) {
                    try cpu.store(1, at: f.pages(low..<low + 1).lowerBound.address)
                }
                try space.protect(f.pages(range), .readWrite)
            case 9: try? space.advise(f.pages(0..<count), .collapse)
            default:
                if processes.count < 4 {
                    let child = try space.fork()
                    processes.append((child, child.makeCPU(), processes[p].values))
                } else {
                    let last = processes.removeLast()
                    last.space.removeCPU(last.cpu)
                    last.space.exit()
                }
            }
        }
        #expect(f.machine.checkInvariants() == [], "HMM_SEED=\(seed)")
        for process in processes.dropFirst() {
            process.space.removeCPU(process.cpu)
            process.space.exit()
        }
        f.finish()
    }

    @Test("INV-AS-8: entries move as they are, whatever their kind")
    func kindsSurviveMove() throws {
        let f = try Fixture { $0.profile = .next }
        try f.space.map(f.pages(0..<4), protection: .readWrite, kind: .anonymous())
        try f.write(0..<3, 1)
        try f.space.advise(f.pages(0..<1), .pageout)
        f.space.lockForReading()
        try f.space.makeExclusive(f.pages(1..<2).lowerBound, owner: NotifierOwner(device: 5, mirror: 1)).release()
        f.space.unlockForReading()
        let before = (0..<4).map { f.space.leaf(f.pages($0..<$0 + 1).lowerBound)?.0 ?? .empty }
        let target = PageNumber(0x3_000_300)
        try f.space.remap(f.pages(0..<4), to: target)
        for i in 0..<4 {
            let after = f.space.leaf(target.advanced(by: i))?.0 ?? .empty
            #expect(after.softLeaf?.kind == before[i].softLeaf?.kind && after.payload == before[i].payload)
            #expect(after.isWritable == before[i].isWritable)
        }
        try f.expect(0..<3, 1, at: target)
        f.checkInvariants()
        f.finish()
    }

    /// Looks at the page table while an invalidation begins and ends.
    private final class Onlooker: ListNotifierClient, @unchecked Sendable {
        let space: AddressSpace
        // Used by the one thread of the test.
        var log: [(event: InvalidationEvent, before: Bool, after: Bool)] = []
        private var open: [Bool] = []
        let page: PageNumber

        init(_ space: AddressSpace, _ page: PageNumber) {
            self.space = space
            self.page = page
        }

        private var isWritableNow: Bool { space.leaf(page)?.0.isWritable ?? false }

        func invalidationStarts(_ range: InvalidationRange) -> Bool {
            if range.pages.contains(page) { open.append(isWritableNow) }
            return true
        }

        func invalidationEnds(_ range: InvalidationRange) {
            if range.pages.contains(page) { log.append((range.event, open.removeLast(), isWritableNow)) }
        }
    }

    typealias Loss = (name: String, event: InvalidationEvent, lose: @Sendable (Fixture) throws -> Void)

    static let losses: [Loss] = [
        ("protect", .protectionVMA, { try $0.space.protect($0.pages(0..<2), .read) }),
        ("unmap", .unmap, { try $0.space.unmap($0.pages(0..<2)) }),
        ("dontneed", .clear, { try $0.space.advise($0.pages(0..<2), .dontneed) }),
        ("page out", .clear, { try $0.space.advise($0.pages(0..<2), .pageout) }),
        ("move", .unmap, { try $0.space.remap($0.pages(0..<2), to: PageNumber(0x3_000_000)) }),
        ("fork", .protectionPage, { try $0.space.fork().exit() }),
        (
            "exclusive", .exclusive,
            { f in
                f.space.lockForReading()
                defer { f.space.unlockForReading() }
                let owner = NotifierOwner(device: 5, mirror: 1)
                try f.space.makeExclusive(f.pages(0..<1).lowerBound, owner: owner).release()
            }
        ),
    ]

    @Test("INV-AS-10: a right is lost between the begin and the end of an invalidation", arguments: losses.indices)
    func lossesAreAnnounced(_ index: Int) throws {
        let loss = Self.losses[index]
        let f = try Fixture()
        try f.space.map(f.pages(0..<2), protection: .readWrite, kind: .anonymous())
        try f.write(0..<2, 1)
        let onlooker = Onlooker(f.space, f.pages(0..<1).lowerBound)
        let subscription = try f.space.notifiers.register(onlooker)
        try loss.lose(f)
        let told = try #require(onlooker.log.first { $0.event == loss.event }, "\(loss.name) was not announced")
        #expect(told.before, "\(loss.name): the right was gone before the begin")
        #expect(!told.after, "\(loss.name): the right was there after the end")
        f.space.notifiers.unregister(subscription)
        f.space.removeCPU(f.cpu)
        f.space.exit()
        f.checkInvariants()
    }
}
