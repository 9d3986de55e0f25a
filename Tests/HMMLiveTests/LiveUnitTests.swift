import CLive
import Glibc
import HMM
import HMMLive
import Testing

@Suite("Slots for all pages of a table", .enabled(if: canRunLive))
struct LiveUnitTests {
    private static let table = 512

    /// What the page tables say of one page.
    private func flags(_ page: UInt64) -> Int {
        var seen: UInt8 = 0
        #expect(clive_look(page, 1, &seen) == 0)
        return Int(seen)
    }

    private func isHuge(_ page: PageNumber) -> Bool { flags(page.raw) & CLIVE_HUGE != 0 }

    /// The page of the arena that is the slot of a page that is away.
    private func slot(of page: PageNumber, in space: LiveSpace) throws -> PageNumber {
        let word = clive_load(try #require(clive_word(page.raw)))
        #expect(clive_state_of(word) == UInt32(CLIVE_AWAY))
        let arena = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: space.machine.frames.arena.base))))
        return arena.advanced(by: Int(clive_frame_of(word)))
    }

    @Test("huge pages that a driver migrates stay huge, in their slots and at home", arguments: [16 << 20, 128 << 20])
    func staysHuge(deviceBytes: Int) throws {
        let live = try LiveFixture(pages: 4 * Self.table, deviceBytes: deviceBytes, hugePages: true)
        live.fill()
        let firsts = (0..<4).map { live.pages.lowerBound.advanced(by: $0 * Self.table) }
        let features = LiveSpace.features
        // The kernel may have no huge page to give, or may not tell.
        let canTell = features.move && features.pagemap_scan && firsts.allSatisfy(isHuge)
        for _ in 0..<3 {
            #expect(try live.device.prefetch(live.pages).moved == 4 * Self.table)
            for first in firsts where canTell { #expect(isHuge(try slot(of: first, in: live.space))) }
            #expect(try live.device.load(live.address(700 * 512 + 3)) == 0x1_0000_0000 + UInt64(700 * 512 + 3))
            #expect(try live.device.evict(live.pages).moved == 4 * Self.table)
            #expect(live.isDeviceEmpty)
            for first in firsts where canTell { #expect(isHuge(first)) }
        }
        // A CPU's touch brings one of them home whole.
        _ = try live.device.prefetch(live.pages)
        #expect(live.buffer.elements[5] == 0x1_0000_0005)
        if canTell { #expect(isHuge(firsts[0]) && flags(firsts[0].raw + 511) & CLIVE_PRESENT != 0) }
        #expect(live.firstDifference() == nil)
        live.space.deliverInvalidations()
        #expect(live.isDeviceEmpty)
        live.device.detach()
    }

    @Test("a part that comes home is free by itself, and goes again")
    func parts() throws {
        let live = try LiveFixture(pages: 2 * Self.table)
        live.fill()
        #expect(try live.device.prefetch(live.pages).moved == 1024)
        #expect(live.buffer.elements[40 * 512] == 0x1_0000_0000 + 40 * 512)
        live.space.deliverInvalidations()
        let around = live.space.configuration.faultAroundPages
        #expect(live.device.memory!.usedFrames == 1024 - around)
        let part = live.pages.lowerBound.advanced(by: 600)..<live.pages.lowerBound.advanced(by: 700)
        #expect(try live.device.evict(part).moved == 100)
        #expect(live.device.memory!.usedFrames == 1024 - around - 100)
        try live.device.store(1, at: live.address(300 * 512))
        #expect(try live.device.prefetch(live.pages).moved == around + 100)
        #expect(live.device.memory!.usedFrames == 1024)
        #expect(live.buffer.elements[300 * 512] == 1)
        live.buffer.elements[300 * 512] = 0x1_0000_0000 + 300 * 512
        _ = try live.device.evict(live.pages)
        live.space.deliverInvalidations()
        #expect(live.isDeviceEmpty)
        #expect(live.firstDifference() == nil)
        live.device.detach()
    }

    @Test("a full device gives up a table's pages that it has not used for longest")
    func fullDevice() throws {
        let live = try LiveFixture(pages: 3 * Self.table, deviceBytes: 2 * Self.table * 4096)
        live.fill()
        let first = live.pages.lowerBound
        _ = try live.device.prefetch(first..<first.advanced(by: 1024))
        #expect(try live.device.prefetch(first.advanced(by: 1024)..<live.pages.upperBound).moved == 512)
        #expect(live.device.memory!.usedFrames == 1024)
        // The first went, the second stayed.
        #expect(clive_load(clive_word(first.raw)!) == 0)
        #expect(clive_state_of(clive_load(clive_word(first.raw + 512)!)) == UInt32(CLIVE_AWAY))
        #expect(live.firstDifference() == nil)
        live.device.detach()
    }

    @Test("pages of a table that were moved to another address come home to it")
    func remapped() throws {
        let live = try LiveFixture(pages: Self.table)
        live.fill()
        let bytes = 100 * 4096
        let target = mmap(nil, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        let new = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: target))))
        #expect(try live.device.prefetch(live.pages).moved == 512)
        let old = live.pages.lowerBound.advanced(by: 200)..<live.pages.lowerBound.advanced(by: 300)
        #expect(live.space.remap(old, newPageCount: 100, flags: 3, to: new) == .moved(new))
        #expect(live.device.memory!.usedFrames == 512)
        // All of the device's memory is given up by its slots.
        live.device.detach()
        let words = target.assumingMemoryBound(to: UInt64.self)
        #expect((0..<100 * 512).first { words[$0] != 0x1_0000_0000 + UInt64(200 * 512 + $0) } == nil)
        for index in [0, 199 * 512, 300 * 512, 511 * 512] {
            #expect(live.buffer.elements[index] == 0x1_0000_0000 + UInt64(index))
        }
        #expect(live.space.unmap(new..<new.advanced(by: 100)) == 0)
        // What the buffer lost to mremap is mapped again, to be unmapped with the rest.
        let hole = UnsafeMutableRawPointer(live.buffer.elements.baseAddress! + 200 * 512)
        #expect(mmap(hole, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == hole)
    }
}
