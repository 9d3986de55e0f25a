import Synchronization

/// Visits a range of a page table, one step for each hole, huge leaf and PTE table: never one a page.
///
/// A hole is reported once, as large as the level at which it was found. After a step the caller may move the cursor
/// (`restart(at:)`), for instance because it slept and must look again.
///
/// ```
/// var cursor = PageTableCursor(tables, pages)
/// while let step = cursor.advance() {
///     switch step.kind { case .hole: … case .pteTable: … case .pmdLeaf, .pudLeaf: … }
/// }
/// ```
/// The cursor reads without locks; a step is a hint until the caller has taken the lock of `step.entry` and looked
/// again. The caller keeps tables from being freed, as `PageTables` says.
package struct PageTableCursor {
    package enum Kind {
        /// Nothing is mapped, and no table is there below `level`.
        case hole
        /// `entry` is the PTE of the first page of the range; the others follow it.
        case pteTable
        /// `entry` is the PMD entry: a present huge leaf, or a huge migration or device-private leaf.
        case pmdLeaf
        /// `entry` is the PUD entry.
        case pudLeaf
    }

    package struct Step {
        package let kind: Kind
        /// The part of the visited range that the step covers.
        package let pages: PageRange
        package let entry: EntryPointer
        /// The level of `entry`.
        package let level: PageLevel
        /// For `.pteTable`, the PMD entry that leads to the table.
        package let parent: EntryPointer
        /// What `parent` (for a table) or `entry` held when it was read.
        package let seen: PageTableEntry
    }

    private let tables: Unmanaged<PageTables>
    private let pool: Unmanaged<PageTablePool>
    private(set) package var next: PageNumber
    package let end: PageNumber
    // The PMD table of the last step, so that a visit descends once a PMD table.
    private var pmdTable: EntryPointer?
    private var pmdTableBase = PageNumber(0)

    /// The caller keeps `tables` alive as long as the cursor.
    init(_ tables: PageTables, _ pages: PageRange) {
        self.tables = .passUnretained(tables)
        pool = .passUnretained(tables.pool)
        next = pages.lowerBound
        end = pages.upperBound
    }

    /// Continues at `page`, before or after where the cursor stands, with a fresh descent.
    package mutating func restart(at page: PageNumber) {
        next = page
        pmdTable = nil
    }

    /// The next step, or nil at the end of the range.
    package mutating func advance() -> Step? {
        guard next < end else { return nil }
        let page = next
        if pmdTable == nil || page.alignedDown(order: 18) != pmdTableBase {
            if let step = descend(page) { return step }
        }
        let pmd = pmdTable! + PageTables.index(page, .pmd)
        schedulingPoint(.load, on: UInt(bitPattern: pmd))
        let entry = PageTableEntry(raw: pmd.pointee.load(ordering: .acquiring))
        if entry.isTable {
            let pte = pool._withUnsafeGuaranteedRef { $0.entries(entry.table) } + PageTables.index(page, .pte)
            return step(.pteTable, page, entry: pte, level: .pmd, parent: pmd, seen: entry)
        }
        return step(entry.isNone ? .hole : .pmdLeaf, page, entry: pmd, level: .pmd, parent: pmd, seen: entry)
    }

    /// Goes down to the PMD table of `page`. Answers a step when the descent ends above it.
    private mutating func descend(_ page: PageNumber) -> Step? {
        tables._withUnsafeGuaranteedRef { tables in
            var table = tables.root
            var level = PageLevel.pgd
            while level > .pmd {
                let slot = tables.pool.entries(table) + PageTables.index(page, level)
                schedulingPoint(.load, on: UInt(bitPattern: slot))
                let entry = tables.read(slot)
                guard entry.isTable else {
                    let kind: Kind = entry.isNone ? .hole : .pudLeaf
                    return step(kind, page, entry: slot, level: level, parent: slot, seen: entry)
                }
                table = entry.table
                level = level.below
            }
            pmdTable = tables.pool.entries(table)
            pmdTableBase = page.alignedDown(order: 18)
            return nil
        }
    }

    @inline(__always)
    private mutating func step(
        _ kind: Kind, _ page: PageNumber, entry: EntryPointer, level: PageLevel, parent: EntryPointer,
        seen: PageTableEntry
    ) -> Step {
        let slotEnd = PageNumber(((page.raw >> UInt64(level.order)) &+ 1) << UInt64(level.order))
        let upper = min(slotEnd, end)
        next = upper
        return Step(
            kind: kind, pages: page..<upper, entry: entry, level: kind == .pteTable ? .pte : level, parent: parent,
            seen: seen)
    }
}
