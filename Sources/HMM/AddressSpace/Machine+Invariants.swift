import Synchronization

// The books of a machine, recomputed from its page tables, page caches and swap, and compared with what is counted.
//
// Meant for quiescent points: no operation is under way. What it finds wrong it answers in words, each beginning with
// the invariant's name; an empty answer is good.

extension Machine {
    /// Everything that is wrong with this machine.
    public func checkInvariants() -> [String] {
        var books = MachineBooks()
        for space in addressSpaces { space.audit(&books) }
        for file in files.all { file.audit(&books) }
        books.auditFrames(self)
        books.auditSwap(self)
        books.auditHugetlb(self)
        return books.faults
    }
}

/// What the entries say that the counts should be.
struct MachineBooks {
    struct Folio {
        var references = 0
        var mappings = 0
        var entries = 0
    }
    var faults: [String] = []
    var folios: [UInt32: Folio] = [:]
    /// Entries that name each page, for the exclusive mark.
    var pageEntries: [UInt32: Int] = [:]
    var swapEntries: [UInt32: Int] = [:]
    var exclusiveSwapEntries: [UInt32: Int] = [:]
    private static let faultLimit = 20

    mutating func fault(_ text: @autoclosure () -> String) {
        if faults.count < Self.faultLimit { faults.append(text()) }
    }

    func auditSummary() -> String { faults.joined(separator: "\n") }

    mutating func auditFrames(_ machine: Machine) {
        let frames = machine.frames
        var frame = frames.system.firstFrame
        var used = 0
        while frame < frames.system.highWater { frame = audit(frame, machine, &used) }
        if used != frames.system.usedFrames {
            fault("INV-AS-1: \(used) frames have references, the allocator says \(frames.system.usedFrames)")
        }
        if frames.system.countFree() + frames.system.usedFrames != frames.system.totalFrames {
            fault("INV-AS-1: free and used frames are not all frames")
        }
        for memory in frames.deviceZones {
            used = 0
            for chunk in memory.touchedRanges {
                var frame = chunk.lowerBound
                while frame < chunk.upperBound { frame = audit(frame, machine, &used) }
            }
            if used != memory.usedFrames {
                fault("INV-MG-3: \(used) device frames have references, the device says \(memory.usedFrames)")
            }
        }
        // Every folio that an entry names was met above, unless it is free.
        for (frame, _) in folios where frames.refCount(FrameNumber(frame)) == 0 {
            fault("INV-AS-1: \(FrameNumber(frame)) is free and an entry names it")
        }
    }

    /// Checks one folio or free frame. Answers the next frame to look at.
    private mutating func audit(_ frame: FrameNumber, _ machine: Machine, _ used: inout Int) -> FrameNumber {
        let frames = machine.frames
        let count = frames.refCount(frame)
        guard count > 0 else { return frame + 1 }
        let size = frames.pageCount(ofHead: frame)
        used += size
        let expected = folios[frame.raw] ?? Folio()
        let cached = frames.hasFlags(frame, FrameFlags.swapCache) ? size : 0
        let sum = expected.references + cached + frames.pinCount(frame)
        if sum != count { fault("INV-AS-1: \(frame) has \(count) references, \(sum) are explained") }
        if expected.mappings != frames.mappingCount(frame) {
            fault("INV-AS-1: \(frame) has map count \(frames.mappingCount(frame)), \(expected.mappings) are there")
        }
        if frames.isLocked(frame) { fault("INV-MG-2: \(frame) is locked") }
        for i in 0..<size where frames.isAnonExclusive(frame + i) {
            let entries = pageEntries[frame.raw + UInt32(i)] ?? 0
            let head = size > 1 ? folios[frame.raw]?.entries ?? 0 : 0
            if entries + (i == 0 ? head : 0) > 1 {
                fault("INV-AS-2: \(frame + i) is exclusive and named \(entries) times")
            }
        }
        return frame + size
    }

    mutating func auditSwap(_ machine: Machine) {
        var used = 0
        for (slot, count, cached) in machine.swap.snapshot() {
            used += 1
            let expected = (swapEntries[slot.raw] ?? 0) + (cached == nil ? 0 : 1)
            if count != expected { fault("INV-AS-13: swap slot \(slot.raw) has count \(count), \(expected) are there") }
            if exclusiveSwapEntries[slot.raw] ?? 0 > 0, swapEntries[slot.raw] ?? 0 > 1 {
                fault("INV-AS-13: swap slot \(slot.raw) is exclusive and named more than once")
            }
        }
        if used != machine.swap.usedSlots { fault("INV-AS-13: used swap slots do not add up") }
    }
}

extension MachineBooks {
    /// Pages of the pool are free or in use, and what is promised is what the reservation maps say.
    fileprivate mutating func auditHugetlb(_ machine: Machine) {
        let frames = machine.frames
        let pool = frames.hugetlb
        let counts = pool.counts
        var used = 0
        // A page that is freed will renew a promise which its place says it has already.
        var renewed = 0
        for i in 0..<pool.pageCount {
            let head = pool.firstFrame + i << Geometry.pmdOrder
            if frames.refCount(head) > 0, frames.hasFlags(head, FrameFlags.restoresReserve) { renewed += 1 }
            _ = audit(head, machine, &used)
        }
        if used >> Geometry.pmdOrder + counts.free + counts.lost != pool.pageCount {
            fault("hugetlb: \(used >> Geometry.pmdOrder) pages are used and \(counts.free) free of \(pool.pageCount)")
        }
        var seen: [HugetlbReservations] = machine.files.all.compactMap(\.hugetlbReservations)
        for space in machine.addressSpaces {
            for vma in space.vmas.all {
                guard let own = vma.hugetlbReservations, !seen.contains(where: { $0 === own }) else { continue }
                seen.append(own)
            }
        }
        let promised = seen.reduce(0) { $0 + $1.reservedCount } - renewed
        if promised != counts.reserved || counts.reserved > counts.free {
            fault("hugetlb: \(counts.reserved) pages are promised, \(promised) by the maps, \(counts.free) are free")
        }
    }
}

extension FileMapping {
    func audit(_ books: inout MachineBooks) {
        for index in 0..<pageCount {
            switch cache.content(index) {
            case .empty: continue
            case .swap(let slot): books.swapEntries[slot.raw, default: 0] += 1
            case .frame(let frame):
                books.folios[machine.frames.head(of: frame).raw, default: .init()].references += 1
            }
        }
    }
}

extension AddressSpace {
    /// Adds what the page table says to the books, and checks what can be checked entry by entry.
    func audit(_ books: inout MachineBooks) {
        auditVMAs(&books)
        auditTable(tables.root, .pgd, PageNumber(0), &books)
        for fault in notifiers.checkInvariants() { books.fault(fault) }
    }

    private func auditVMAs(_ books: inout MachineBooks) {
        var end = PageNumber(0)
        for vma in vmas.all {
            if vma.pages.lowerBound < end { books.fault("VMAs overlap at \(vma.pages.lowerBound)") }
            end = vma.pages.upperBound
        }
    }

    private func auditTable(
        _ table: PageTableNumber, _ level: PageLevel, _ base: PageNumber, _ books: inout MachineBooks
    ) {
        var count: Int32 = 0
        for i in 0..<Geometry.entriesPerTable {
            let entry = tables.read(tables.pool.entries(table) + i)
            if entry.isNone { continue }
            count += 1
            let page = PageNumber(base.raw + UInt64(i) << UInt64(level.order))
            if level > .pte, entry.isTable {
                auditTable(entry.table, level.below, page, &books)
            } else {
                auditLeaf(entry, level, page, &books)
            }
        }
        let counted = tables.pool.metadata(table).pointee.entryCount.load(ordering: .relaxed)
        if counted != count { books.fault("INV-AS-11: a table at \(base) counts \(counted) entries and has \(count)") }
        if tables.pool.metadata(table).pointee.lock.isLocked { books.fault("a table at \(base) is locked") }
    }

    private func auditLeaf(
        _ entry: PageTableEntry, _ level: PageLevel, _ page: PageNumber, _ books: inout MachineBooks
    ) {
        guard let vma = vmas.find(page) else { return books.fault("an entry at \(page) lies in no VMA") }
        if entry.isPresent {
            auditPresent(entry, level, page, vma, &books)
        } else if let leaf = entry.softLeaf {
            auditSoftLeaf(leaf, level, page, &books)
        }
    }

    private func auditPresent(
        _ entry: PageTableEntry, _ level: PageLevel, _ page: PageNumber, _ vma: VMA, _ books: inout MachineBooks
    ) {
        if entry.isWritable, !vma.isWritable { books.fault("INV-AS-9: \(page) is writable in a read-only VMA") }
        if frames.isZeroFrame(entry.frame) {
            if entry.isWritable { books.fault("INV-AS-4: the zero page is writable at \(page)") }
            return
        }
        if frames.isDevicePrivate(entry.frame) {
            books.fault("INV-AS-3: \(page) names device-private memory by a present entry")
        }
        let head = frames.head(of: entry.frame)
        if entry.isWritable, frames.mapping(ofHead: head).isAnonymous, !frames.isAnonExclusive(entry.frame) {
            books.fault("INV-AS-2: \(page) is writable and its page is not exclusive")
        }
        if level == .pmd, head != entry.frame { books.fault("a huge leaf at \(page) names the middle of a folio") }
        count(head, entry.frame, isHuge: level > .pte, &books)
    }

    private func auditSoftLeaf(
        _ leaf: SoftLeaf, _ level: PageLevel, _ page: PageNumber, _ books: inout MachineBooks
    ) {
        switch leaf.kind {
        case .swap:
            books.swapEntries[leaf.swapSlot.raw, default: 0] += 1
            if leaf.isSwapExclusive { books.exclusiveSwapEntries[leaf.swapSlot.raw, default: 0] += 1 }
        case .migration: books.fault("INV-AS-7: a migration entry at \(page)")
        case .devicePrivate:
            if !frames.isDevicePrivate(leaf.frame) {
                books.fault("INV-AS-3: a private entry at \(page) names other memory")
            }
            count(frames.head(of: leaf.frame), leaf.frame, isHuge: level > .pte, &books)
        case .deviceExclusive:
            let head = frames.head(of: leaf.frame)
            if !frames.mapping(ofHead: head).isAnonymous || frames.isDevicePrivate(leaf.frame) || level != .pte {
                books.fault("INV-EX-1: the exclusive entry at \(page) names a page that cannot be exclusive")
            }
            count(head, leaf.frame, isHuge: false, &books)
        case .poison, .marker: break
        }
    }

    private func count(_ head: FrameNumber, _ frame: FrameNumber, isHuge: Bool, _ books: inout MachineBooks) {
        books.folios[head.raw, default: .init()].references += 1
        books.folios[head.raw, default: .init()].mappings += 1
        if isHuge {
            books.folios[head.raw, default: .init()].entries += 1
        } else {
            books.pageEntries[frame.raw, default: 0] += 1
        }
    }
}
