import Synchronization

// The books of a machine, recomputed from its page tables, page caches and swap, and compared with what is counted.
//
// Meant for quiescent points: no operation is under way, and one thread asks. What it finds wrong it answers in words,
// each beginning with the invariant's name; an empty answer is good.

extension Machine {
    /// Everything that is wrong with this machine. Costs what is in use, not what there could be.
    public func checkInvariants() -> [String] { books.audit(self, isQuiet: true) }

    /// The same for a moment in the middle of operations at which nobody holds a lock: what must hold even then.
    package func checkInvariantsUnlocked() -> [String] { books.audit(self, isQuiet: false) }
}

extension FileMapping {
    func audit(_ books: MachineBooks) {
        for index in 0..<pageCount {
            switch cache.content(index) {
            case .empty: continue
            case .swap(let slot): books.enter(slot, isExclusive: false)
            case .frame(let frame): books.enterCached(head: machine.frames.head(of: frame))
            }
        }
    }
}

extension AddressSpace {
    /// Enters what the page table says into the books, and checks what can be checked entry by entry.
    func audit(_ books: MachineBooks) {
        var audit = TableAudit(self, books)
        audit.run()
        if books.isQuiet { for fault in notifiers.checkInvariants() { books.fault(fault) } }
    }
}

/// The audit of one address space.
private struct TableAudit {
    let books: MachineBooks
    let frames: FrameTable
    let pool: PageTablePool
    let root: PageTableNumber
    let vmas: ContiguousArray<VMA>
    /// The VMA that was met last. Leaves come in the order of addresses, as VMAs lie.
    var index = 0
    var pages = PageNumber(0)..<PageNumber(0)
    var isWritable = false
    var isHugetlb = false
    /// The index of the VMA's first page, by which reverse maps find it.
    var firstIndex: UInt64 = 0

    init(_ space: AddressSpace, _ books: MachineBooks) {
        self.books = books
        frames = space.frames
        pool = space.tables.pool
        root = space.tables.root
        vmas = space.vmas.all
    }

    mutating func run() {
        var end = PageNumber(0)
        for vma in vmas {
            if vma.pages.lowerBound < end { books.fault("VMAs overlap at \(vma.pages.lowerBound)") }
            end = vma.pages.upperBound
        }
        if let first = vmas.first { look(at: first) }
        audit(root, .pgd, PageNumber(0))
    }

    private mutating func look(at vma: VMA) {
        pages = vma.pages
        isWritable = vma.isWritable
        isHugetlb = vma.isHugetlb
        firstIndex = vma.index(of: pages.lowerBound)
    }

    /// Moves on to the VMA that contains the page. False: there is none.
    private mutating func find(_ page: PageNumber) -> Bool {
        while page >= pages.upperBound, index + 1 < vmas.count {
            index += 1
            look(at: vmas[index])
        }
        return pages.contains(page)
    }

    private mutating func audit(_ table: PageTableNumber, _ level: PageLevel, _ base: PageNumber) {
        let entries = pool.entries(table)
        var count: Int32 = 0
        let counted = pool.metadata(table).pointee.entryCount.load(ordering: .relaxed)
        for group in stride(from: 0, to: Geometry.entriesPerTable, by: 8) {
            // More entries than are counted are met when all is quiet.
            if !books.isQuiet, count == counted { break }
            var bits: UInt64 = 0
            for i in group..<group + 8 { bits |= entries[i].load(ordering: .relaxed) }
            if bits == 0 { continue }
            for i in group..<group + 8 {
                let entry = PageTableEntry(raw: entries[i].load(ordering: .relaxed))
                if entry.isNone { continue }
                count += 1
                let page = PageNumber(base.raw + UInt64(i) << UInt64(level.order))
                if level > .pte, entry.isTable {
                    audit(entry.table, level.below, page)
                } else {
                    audit(leaf: entry, level, page)
                }
            }
        }
        if counted != count { books.fault("INV-AS-11: a table at \(base) counts \(counted) entries and has \(count)") }
        if pool.metadata(table).pointee.lock.isLocked { books.fault("a table at \(base) is locked") }
    }

    private mutating func audit(leaf entry: PageTableEntry, _ level: PageLevel, _ page: PageNumber) {
        guard find(page) else { return books.fault("an entry at \(page) lies in no VMA") }
        if entry.isPresent {
            audit(present: entry, level, page)
        } else if let leaf = entry.softLeaf {
            audit(leaf, level, page)
        }
    }

    private func audit(present entry: PageTableEntry, _ level: PageLevel, _ page: PageNumber) {
        if entry.isWritable, !isWritable { books.fault("INV-AS-9: \(page) is writable in a read-only VMA") }
        let frame = entry.frame
        if frames.isZeroFrame(frame) {
            if entry.isWritable { books.fault("INV-AS-4: the zero page is writable at \(page)") }
            return
        }
        guard exists(frame, page) else { return }
        if frames.isDevicePrivate(frame) {
            books.fault("INV-AS-3: \(page) names device-private memory by a present entry")
        }
        let head = frames.head(of: frame)
        if entry.isWritable, frames.mapping(ofHead: head).isAnonymous, !frames.isAnonExclusive(frame) {
            books.fault("INV-AS-2: \(page) is writable and its page is not exclusive")
        }
        auditReverseMap(head, frame, page)
        if level == .pmd, head != frame { books.fault("a huge leaf at \(page) names the middle of a folio") }
        books.enter(frame, head: head, isHuge: level > .pte)
    }

    /// Whoever has the folio looks for its mappings where its index says: an entry elsewhere is never found.
    private func auditReverseMap(_ head: FrameNumber, _ frame: FrameNumber, _ page: PageNumber) {
        guard !isHugetlb, frames.mapping(ofHead: head).isAnonymous else { return }
        let expected = firstIndex + UInt64(pages.lowerBound.distance(to: page))
        if frames.index(ofHead: head) + UInt64(frame - head) != expected {
            books.fault("INV-AS-16: the reverse map of \(frame) misses \(page)")
        }
    }

    private func audit(_ leaf: SoftLeaf, _ level: PageLevel, _ page: PageNumber) {
        switch leaf.kind {
        case .swap: books.enter(leaf.swapSlot, isExclusive: leaf.isSwapExclusive)
        case .migration: books.fault("INV-AS-7: a migration entry at \(page)")
        case .devicePrivate:
            guard exists(leaf.frame, page) else { return }
            if !frames.isDevicePrivate(leaf.frame) {
                books.fault("INV-AS-3: a private entry at \(page) names other memory")
            }
            let head = frames.head(of: leaf.frame)
            auditReverseMap(head, leaf.frame, page)
            books.enter(leaf.frame, head: head, isHuge: level > .pte)
        case .deviceExclusive:
            guard exists(leaf.frame, page) else { return }
            let head = frames.head(of: leaf.frame)
            auditReverseMap(head, leaf.frame, page)
            if !frames.mapping(ofHead: head).isAnonymous || frames.isDevicePrivate(leaf.frame) || level != .pte {
                books.fault("INV-EX-1: the exclusive entry at \(page) names a page that cannot be exclusive")
            }
            books.enter(leaf.frame, head: head, isHuge: false)
        case .poison, .marker: break
        }
    }

    private func exists(_ frame: FrameNumber, _ page: PageNumber) -> Bool {
        if frame < frames.limit { return true }
        books.fault("INV-AS-1: \(page) names \(frame), which no machine has")
        return false
    }
}
