import Synchronization
import Testing

@testable import HMM

@Suite("Page tables")
struct PageTableTests {
    private let pool: PageTablePool
    private let tables: PageTables

    init() throws {
        pool = try PageTablePool(capacity: 4096, injector: FaultInjector())
        tables = try PageTables(pool: pool)
    }

    private func map(_ page: UInt64, _ level: PageLevel, _ frame: UInt32) throws {
        let slot = try #require(tables.entry(PageNumber(page), making: level))
        tables.lock(slot)
        let entry = PageTableEntry.present(FrameNumber(frame))
        tables.set(slot, level == .pte ? entry : entry.leaf())
        tables.unlock(slot)
    }

    private func steps(_ low: UInt64, _ high: UInt64) -> [String] {
        var cursor = PageTableCursor(tables, PageNumber(low)..<PageNumber(high))
        var result: [String] = []
        while let step = cursor.advance() {
            result.append("\(step.kind) \(step.level) \(step.pages.lowerBound.raw)..<\(step.pages.upperBound.raw)")
        }
        return result
    }

    @Test("a hole is one step, at the highest level that is empty")
    func holes() throws {
        #expect(steps(0, 1 << 36) == (0..<512).map { "hole pgd \($0 << 27)..<\(($0 + 1) << 27)" })
        try map(5, .pte, 9)
        let holes = (1..<512).map { "hole pmd \($0 * 512)..<\(($0 + 1) * 512)" }
        #expect(steps(0, 1 << 18) == ["pteTable pte 0..<512"] + holes)
        #expect(steps(1 << 18, 3 << 18) == ["hole pud 262144..<524288", "hole pud 524288..<786432"])
    }

    @Test("leaves at PTE, PMD and PUD level, clipped to the visited range")
    func leaves() throws {
        try map(3, .pte, 100)
        try map(512, .pmd, 1024)
        try map(1 << 18, .pud, 1 << 18)
        #expect(
            steps(2, 1024 + 4) == ["pteTable pte 2..<512", "pmdLeaf pmd 512..<1024", "hole pmd 1024..<1028"])
        #expect(steps((1 << 18) + 7, (1 << 18) + 9) == ["pudLeaf pud 262151..<262153"])
        #expect(steps(600, 601) == ["pmdLeaf pmd 600..<601"])
    }

    @Test("one descent a table: a visit of a gibibyte of pages takes 512 steps")
    func oneStepATable() throws {
        for i in 0..<512 { try map(UInt64(i * 512 + i), .pte, UInt32(i + 1)) }
        #expect(steps(0, 1 << 18).count == 512)
        #expect(pool.usedTables == 1 + 1 + 1 + 512)
    }

    @Test("the visit can be told to start over, before or after where it stands")
    func startOver() throws {
        try map(0, .pte, 1)
        try map(512, .pte, 2)
        var cursor = PageTableCursor(tables, PageNumber(0)..<PageNumber(1024))
        #expect(cursor.advance()?.pages.lowerBound.raw == 0)
        #expect(cursor.advance()?.pages.lowerBound.raw == 512)
        cursor.restart(at: PageNumber(100))
        #expect(cursor.advance()?.pages == PageNumber(100)..<PageNumber(512))
        cursor.restart(at: PageNumber(700))
        #expect(cursor.advance()?.pages == PageNumber(700)..<PageNumber(1024))
        #expect(cursor.advance() == nil)
    }

    @Test("INV-AS-11: the count of a table is that of its entries")
    func counts() throws {
        #expect(MemoryLayout<PageTableMetadata>.stride == 64, "tables share cache lines")
        try map(1, .pte, 1)
        try map(2, .pte, 2)
        let slot = try #require(tables.entry(PageNumber(1), .pte))
        let table = pool.table(of: slot)
        #expect(pool.metadata(table).pointee.entryCount.load(ordering: .relaxed) == 2)
        tables.lock(slot)
        let old = tables.exchange(slot, .empty)
        tables.unlock(slot)
        #expect(old.frame == FrameNumber(1))
        #expect(pool.metadata(table).pointee.entryCount.load(ordering: .relaxed) == 1)
    }

    @Test("empty tables are freed where nothing outside the range needs them")
    func freeing() throws {
        try map(1, .pte, 1)
        try map(600, .pte, 2)
        for page in [1, 600] as [UInt64] {
            let slot = try #require(tables.entry(PageNumber(page), .pte))
            tables.lock(slot)
            _ = tables.exchange(slot, .empty)
            tables.unlock(slot)
        }
        // Something is still mapped below page 512: its table, and what leads to it, stay.
        tables.freeTables(PageNumber(1)..<PageNumber(700), floor: PageNumber(1), ceiling: Geometry.endPage)
        #expect(pool.usedTables == 4)
        tables.freeTables(PageNumber(0)..<PageNumber(700), floor: PageNumber(0), ceiling: Geometry.endPage)
        #expect(pool.usedTables == 1)
    }

    @Test("entries keep what they are told", arguments: [true, false])
    func encoding(_ on: Bool) {
        let frame = FrameNumber(0xabc_def)
        let entry = PageTableEntry.present(frame).writable(on).dirty(on).softDirty(on).uffdWP(on)
        #expect(entry.frame == frame && entry.isPresent && entry.isYoung && !entry.isTable)
        #expect(entry.isWritable == on && entry.isDirty == on && entry.isSoftDirty == on && entry.isUffdWP == on)
        let leaf = SoftLeaf.migration(frame, on ? .write : .readExclusive, carrying: PageTableEntry.dirtyBit, huge: on)
        #expect(leaf.kind == .migration && leaf.frame == frame && leaf.isWriteKind == on && leaf.isReadExclusive != on)
        #expect(leaf.entry.softLeaf == leaf && !leaf.entry.isPresent && !leaf.entry.isTable && !leaf.entry.isNone)
        #expect(leaf.isHuge == on && leaf.entry.isDirty)
        let kept = leaf.withoutWrite(keepsExclusive: true)
        #expect(!kept.isWriteKind && kept.isReadExclusive)
        #expect(!leaf.withoutWrite(keepsExclusive: false).isReadExclusive)
        let swap = SoftLeaf.swap(SwapSlot(77), exclusive: on, tracking: 0)
        #expect(swap.kind == .swap && swap.swapSlot == SwapSlot(77) && swap.isSwapExclusive == on)
        #expect(SoftLeaf.marker(.guarded).marker == .guarded)
        #expect(PageTableEntry.table(PageTableNumber(12)).isTable)
    }
}
