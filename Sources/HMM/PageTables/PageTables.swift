import Synchronization

/// A pointer to an entry in a table of the pool.
package typealias EntryPointer = UnsafeMutablePointer<Atomic<UInt64>>

/// The four-level page table of one address space.
///
/// Locks: an entry is changed with the lock of the table it lies in held (`.pmd` above PTE level, `.pte` at it; a
/// lower table's lock is taken inside a higher one's, two of one level in ascending order of address). Young and
/// dirty bits are also set by CPUs, without a lock; every change here is therefore an exchange.
///
/// Who may walk: whoever keeps tables from being freed, which is whoever holds the mmap lock, a VMA's lock or the lock
/// of a reverse map that leads here. Tables are freed by unmap and exit, which exclude all three, and by collapse.
package final class PageTables: @unchecked Sendable {
    package let pool: PageTablePool
    let root: PageTableNumber

    init(pool: PageTablePool) throws(HMMError) {
        guard let root = pool.allocate(.pgd) else { throw HMMError(.outOfMemory, "no memory for a page table") }
        self.pool = pool
        self.root = root
    }

    // MARK: Entries

    @inline(__always)
    static func index(_ page: PageNumber, _ level: PageLevel) -> Int {
        Int(truncatingIfNeeded: page.raw >> UInt64(level.order)) & 511
    }

    /// Reads an entry without its lock: a hint, unless the caller checks it again under the lock.
    @inline(__always)
    package func read(_ entry: EntryPointer) -> PageTableEntry {
        PageTableEntry(raw: entry.pointee.load(ordering: .acquiring))
    }

    /// The entry of `page` at `level`, or nil when the tables do not reach down to it.
    @inline(__always)
    package func entry(_ page: PageNumber, _ level: PageLevel) -> EntryPointer? {
        var table = root
        var current = PageLevel.pgd
        while current > level {
            let entry = read(pool.entries(table) + Self.index(page, current))
            guard entry.isTable else { return nil }
            table = entry.table
            current = current.below
        }
        return pool.entries(table) + Self.index(page, level)
    }

    /// The entry of `page` at `level`, with missing tables made. Nil when there is no memory, or when a huge leaf
    /// stands in the way.
    package func entry(_ page: PageNumber, making level: PageLevel) -> EntryPointer? {
        var table = root
        var current = PageLevel.pgd
        while current > level {
            let slot = pool.entries(table) + Self.index(page, current)
            var entry = read(slot)
            if entry.isNone {
                guard install(in: slot, at: current) else { return nil }
                entry = read(slot)
            }
            guard entry.isTable else { return nil }
            table = entry.table
            current = current.below
        }
        return pool.entries(table) + Self.index(page, level)
    }

    /// Links a new table into an empty slot, unless somebody else was faster. False when there is no memory.
    private func install(in slot: EntryPointer, at level: PageLevel) -> Bool {
        guard let table = pool.allocate(level.below) else { return false }
        lock(slot)
        let isEmpty = read(slot).isNone
        if isEmpty { set(slot, .table(table)) }
        unlock(slot)
        if !isEmpty { pool.free(table) }
        return true
    }

    // MARK: Locks

    /// Locks the table that the entry lies in.
    @inline(__always)
    package func lock(_ entry: EntryPointer) {
        pool.metadata(pool.table(of: entry)).pointee.lock.lock()
    }
    @inline(__always)
    package func unlock(_ entry: EntryPointer) {
        pool.metadata(pool.table(of: entry)).pointee.lock.unlock()
    }

    /// Locks the PTE table that covers `page`, if there is one. The table is the one that was there under its lock:
    /// a huge leaf may have come or gone before.
    package func lockPTE(_ page: PageNumber) -> EntryPointer? {
        while let pmd = entry(page, .pmd) {
            let entry = read(pmd)
            guard entry.isTable else { return nil }
            let pte = pool.entries(entry.table) + Self.index(page, .pte)
            lock(pte)
            if read(pmd) == entry { return pte }
            unlock(pte)
        }
        return nil
    }

    // MARK: Changes, with the table locked

    /// Replaces an entry and answers the old one, with the young and dirty bits that it had at that moment.
    @inline(__always)
    package func exchange(_ entry: EntryPointer, _ new: PageTableEntry) -> PageTableEntry {
        schedulingPoint(.update, on: UInt(bitPattern: entry))
        let old = PageTableEntry(raw: entry.pointee.exchange(new.raw, ordering: .acquiringAndReleasing))
        count(entry, old, new)
        return old
    }

    /// Stores into an entry that no CPU can be using: it was empty or not present.
    @inline(__always)
    package func set(_ entry: EntryPointer, _ new: PageTableEntry) {
        schedulingPoint(.update, on: UInt(bitPattern: entry))
        let old = PageTableEntry(raw: entry.pointee.load(ordering: .relaxed))
        entry.pointee.store(new.raw, ordering: .releasing)
        count(entry, old, new)
    }

    /// Adds bits to a present entry: rights or marks that it did not have.
    @inline(__always)
    func add(_ entry: EntryPointer, bits: UInt64) {
        schedulingPoint(.update, on: UInt(bitPattern: entry))
        entry.pointee.bitwiseOr(bits, ordering: .acquiringAndReleasing)
    }

    @inline(__always)
    private func count(_ entry: EntryPointer, _ old: PageTableEntry, _ new: PageTableEntry) {
        if old.isNone != new.isNone {
            let metadata = pool.metadata(pool.table(of: entry))
            let count = metadata.pointee.entryCount.load(ordering: .relaxed)
            metadata.pointee.entryCount.store(count + (new.isNone ? -1 : 1), ordering: .relaxed)
        }
    }

    // MARK: Tables for splits

    /// Keeps `table` for the day when a huge leaf of this PMD table is split, which must not fail. PMD lock held.
    func deposit(_ table: PageTableNumber, at pmd: EntryPointer) {
        let metadata = pool.metadata(pool.table(of: pmd))
        pool.metadata(table).pointee.next = metadata.pointee.next
        metadata.pointee.next = table.raw
    }

    /// Takes a deposited table. PMD lock held, and a huge leaf that had one deposited is just being removed.
    func withdraw(at pmd: EntryPointer) -> PageTableNumber {
        let metadata = pool.metadata(pool.table(of: pmd))
        let table = PageTableNumber(metadata.pointee.next)
        precondition(table != .none, "a huge leaf without a table for its split")
        metadata.pointee.next = pool.metadata(table).pointee.next
        pool.metadata(table).pointee.next = 0
        return table
    }

    // MARK: Freeing

    /// Frees the tables that lie within `pages` and are empty, where nothing outside `kept` can need them: `kept` is
    /// the widest range around `pages` in which nothing is mapped. The caller excludes every walker of that range.
    func freeTables(_ pages: PageRange, floor: PageNumber, ceiling: PageNumber) {
        freeTables(root, .pgd, pages, floor: floor, ceiling: ceiling)
    }

    private func freeTables(
        _ table: PageTableNumber, _ level: PageLevel, _ pages: PageRange, floor: PageNumber, ceiling: PageNumber
    ) {
        let span = 1 << level.order
        var page = pages.lowerBound.alignedDown(order: level.order)
        while page < pages.upperBound {
            let slot = pool.entries(table) + Self.index(page, level)
            let entry = read(slot)
            let next = page.advanced(by: span)
            if entry.isTable {
                let child = entry.table
                if level.below > .pte,
                    let part = pages.intersection(page..<next)
                {
                    freeTables(child, level.below, part, floor: floor, ceiling: ceiling)
                }
                // A table goes when no mapping outside the freed range can still use it.
                let entryCount = pool.metadata(child).pointee.entryCount.load(ordering: .relaxed)
                if page >= floor, next <= ceiling, entryCount == 0 {
                    lock(slot)
                    set(slot, .empty)
                    unlock(slot)
                    pool.free(child)
                }
            }
            page = next
        }
    }

    /// Frees the root, when everything else is gone.
    func freeRoot() { pool.free(root) }
}
