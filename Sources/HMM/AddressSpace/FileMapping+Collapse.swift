import Synchronization

// Collapse of shared memory: 512 pages of a file are replaced by one huge page in its cache. Who had them mapped finds
// nothing mapped afterwards, and faults on the huge page.
//
// Kernel: mm/khugepaged.c hpage_collapse_scan_file, collapse_file, retract_page_tables (6.12).
// Locks: the new folio and the old ones (all only tried) > the file's map > PMD table > PTE table. No lock of an
// address space is held; those of others are tried where their empty tables are taken away.
// Differs from Linux: tables of another address space are only taken away when nobody uses them at the moment.

extension FileMapping {
    private static let hugePages = 1 << Geometry.pmdOrder

    /// Makes the aligned 512 pages from `first` on one huge page. Nil: they are.
    func collapse(at first: Int) -> CollapseFailure? {
        let frames = machine.frames
        switch scan(first) {
        case .isHuge: return nil
        case .failed(let failure): return failure
        case .isSuitable: break
        }
        // Before a folio is locked: this waits for others.
        if let failure = fetchSwapped(first) { return failure }
        guard let head = frames.allocateLockedFolio(order: Geometry.pmdOrder) else { return .outOfMemory }
        var old = ContiguousArray<FrameNumber>(repeating: .none, count: Self.hugePages)
        var failure = isolate(first, &old)
        if failure == nil {
            frames.setMapping(head, .file(id), index: UInt64(first))
            frames.setFlags(head, FrameFlags.upToDate | FrameFlags.onLRU | FrameFlags.dirty)
            failure = replace(old, at: first, by: head)
        }
        release(old, isReplaced: failure == nil)
        if failure == nil { retractTables(first) }
        frames.unlockFolio(head)
        frames.put(head)
        return failure
    }

    private enum Scan {
        case isHuge
        case isSuitable
        case failed(CollapseFailure)
    }

    private func scan(_ first: Int) -> Scan {
        let frames = machine.frames
        for index in first..<first + Self.hugePages {
            guard let frame = cache.get(index) else { continue }
            defer { frames.put(frame) }
            let head = frames.head(of: frame)
            if frames.order(ofHead: head) == Geometry.pmdOrder { return .isHuge }
            let explained = frames.mappingCount(head) + machine.cacheReferences(ofHead: head) + 1
            guard frames.isOnLRU(head), frames.refCount(head) == explained else {
                return .failed(.busy)
            }
        }
        return .isSuitable
    }

    /// Brings pages back from swap, before any other lock of a folio is held.
    private func fetchSwapped(_ first: Int) -> CollapseFailure? {
        var isEmpty = true
        for index in first..<first + Self.hugePages {
            switch cache.content(index) {
            case .empty: continue
            case .frame: isEmpty = false
            case .swap:
                isEmpty = false
                guard let frame = try? lockedPage(index) else { return .hopeless }
                machine.frames.unlockFolio(machine.frames.head(of: frame))
                machine.frames.put(frame)
            }
        }
        // A hole as large as the window: it was punched meanwhile.
        return isEmpty ? .hopeless : nil
    }

    /// Locks the pages that are there and unmaps them everywhere, so that the cache alone leads to them.
    private func isolate(_ first: Int, _ old: inout ContiguousArray<FrameNumber>) -> CollapseFailure? {
        let frames = machine.frames
        for i in 0..<Self.hugePages {
            let content = cache.content(first + i)
            if content == .empty { continue }
            guard let frame = cache.get(first + i) else { return .busy }
            guard !frames.isLarge(frame), frames.tryLockFolio(frame) else {
                frames.put(frame)
                return .busy
            }
            old[i] = frame
            let isSame = cache.content(first + i) == .frame(frame)
            guard isSame, frames.isOnLRU(frame) else { return .busy }
            guard !frames.hasFlags(frame, FrameFlags.poisoned) else { return .hopeless }
            // Ours and the cache's are left.
            guard machine.unmapForReclaim(frame), frames.refCount(frame) == 2 else { return .busy }
        }
        return nil
    }

    /// Copies the pages and puts the new ones in their places. Holes are filled first: that can fail.
    private func replace(
        _ old: ContiguousArray<FrameNumber>, at first: Int, by head: FrameNumber
    ) -> CollapseFailure? {
        let frames = machine.frames
        frames.get(head, count: Int32(Self.hugePages))
        for i in 0..<Self.hugePages {
            if old[i] == .none { clearPages(frames.bytes(of: head + i)) } else { frames.copy(old[i], to: head + i) }
        }
        for i in 0..<Self.hugePages where old[i] == .none {
            if cache.replace(first + i, .empty, with: .frame(head + i)) { continue }
            // Somebody filled the hole.
            for j in 0..<i where old[j] == .none { _ = cache.replace(first + j, .frame(head + j), with: .empty) }
            frames.leaveFile(head)
            frames.put(head, count: Int32(Self.hugePages))
            return .busy
        }
        for i in 0..<Self.hugePages where old[i] != .none {
            let isReplaced = cache.replace(first + i, .frame(old[i]), with: .frame(head + i))
            precondition(isReplaced, "a locked page left its file")
        }
        machine.statistics.bytesCopied.add(UInt64(Self.hugePages * Geometry.pageSizeBytes))
        return nil
    }

    private func release(_ old: ContiguousArray<FrameNumber>, isReplaced: Bool) {
        for frame in old where frame != .none {
            if isReplaced { machine.frames.leaveFile(frame) }
            machine.frames.unlockFolio(frame)
            machine.frames.put(frame, count: isReplaced ? 2 : 1)
        }
    }

    /// Takes the empty tables of the window away, so that the next fault maps the huge page as a whole. VMAs with
    /// anonymous pages keep theirs.
    private func retractTables(_ first: Int) {
        mapLock.lockWrite()
        defer { mapLock.unlockWrite() }
        for vma in users where vma.anonVMA == nil && !vma.flags.contains(.uffdWP) {
            guard let start = vma.page(ofIndex: UInt64(first)), start.isAligned(order: Geometry.pmdOrder),
                vma.hugeWindow(around: start) != nil
            else { continue }
            vma.space.retractTable(vma, start)
        }
    }
}

extension AddressSpace {
    /// Frees the table at `start` if it is empty and nobody walks it: no fault, since mmap lock and VMA are taken, and
    /// no reverse map, because the file's is locked by the caller.
    fileprivate func retractTable(_ vma: VMA, _ start: PageNumber) {
        guard mmapLock.tryLockWrite() else { return }
        defer { unlockForWriting() }
        guard vma.lock.tryLockWrite() else { return }
        defer { vma.lock.unlockWrite() }
        guard let pmd = tables.entry(start, .pmd), tables.read(pmd).isTable else { return }
        let invalidation = beginInvalidation(.clear, start..<start.advanced(by: Geometry.entriesPerTable))
        if let table = detachTable(pmd, ifEmpty: true) { tables.pool.free(table) }
        invalidation.end()
    }

    /// Unlinks a table that only the caller can be using, and makes CPUs forget it. With `ifEmpty` only if nothing is
    /// mapped by it.
    package func detachTable(_ pmd: EntryPointer, ifEmpty: Bool) -> PageTableNumber? {
        tables.lock(pmd)
        defer { tables.unlock(pmd) }
        let table = tables.read(pmd).table
        if ifEmpty {
            let entries = tables.pool.entries(table)
            tables.lock(entries)
            defer { tables.unlock(entries) }
            for i in 0..<Geometry.entriesPerTable where !tables.read(entries + i).isNone { return nil }
        }
        tables.set(pmd, .empty)
        flushTLB()
        return table
    }

    /// Maps the huge page of a file's cache as one, where its pages are mapped one by one or not at all.
    ///
    /// Kernel: mm/khugepaged.c collapse_pte_mapped_thp (6.12). No lock is held.
    func mapCollapsed(_ file: FileMapping, _ first: Int, at start: PageNumber) -> CollapseFailure? {
        lockForWriting()
        defer { unlockForWriting() }
        guard let vma = collapsibleVMA(at: start), vma.file === file, Int(vma.index(of: start)) == first else {
            return .hopeless
        }
        guard !vma.flags.contains(.uffdWP) else { return .unsuitable }
        markWrite(vma)
        guard let head = file.cache.get(first) else { return .unsuitable }
        frames.lockFolio(frames.head(of: head))
        defer {
            frames.unlockFolio(frames.head(of: head))
            frames.put(head)
        }
        guard file.cache.content(first) == .frame(head), frames.order(ofHead: head) == Geometry.pmdOrder,
            !frames.hasFlags(head, FrameFlags.tail)
        else { return .unsuitable }
        // Kernel: find_pmd_or_thp_or_none (6.12). No table is made: a child that touched nothing near has none.
        guard let pmd = tables.entry(start, .pmd) else { return .unsuitable }
        let entry = tables.read(pmd)
        if entry.isHugeLeaf { return nil }
        let table: PageTableNumber
        if entry.isTable {
            if let failure = checkPieces(vma, tables.pool.entries(entry.table), head) { return failure }
            table = takePieces(vma, pmd, start, head)
        } else {
            guard entry.isNone, let new = tables.pool.allocate(.pte) else { return .hopeless }
            table = new
        }
        tables.lock(pmd)
        setFileLeaf(pmd, head, vma, table, write: false)
        tables.unlock(pmd)
        return nil
    }

    /// Whether all that is mapped are pages of the folio, each in its place. Faults are excluded.
    private func checkPieces(_ vma: VMA, _ pte: EntryPointer, _ head: FrameNumber) -> CollapseFailure? {
        tables.lock(pte)
        defer { tables.unlock(pte) }
        for i in 0..<Geometry.entriesPerTable {
            let entry = tables.read(pte + i)
            if entry.isNone { continue }
            guard entry.isPresent else { return .unsuitable }
            guard entry.frame == head + i else { return .hopeless }
        }
        return nil
    }

    /// Unmaps the pages of a table that was checked, and answers the table, empty and unlinked. Reverse maps stand
    /// still meanwhile: their walkers must not be in a table that is taken away.
    private func takePieces(
        _ vma: VMA, _ pmd: EntryPointer, _ start: PageNumber, _ head: FrameNumber
    ) -> PageTableNumber {
        vma.file!.mapLock.lockWrite()
        vma.anonVMA?.lockWrite()
        let invalidation = beginInvalidation(.clear, start..<start.advanced(by: Geometry.entriesPerTable))
        let table = detachTable(pmd, ifEmpty: false)!
        let pte = tables.pool.entries(table)
        for i in 0..<Geometry.entriesPerTable {
            let entry = tables.read(pte + i)
            if entry.isNone { continue }
            tables.set(pte + i, .empty)
            if entry.isDirty { markDirty(head) }
            frames.removeMapping(head + i)
            frames.put(head)
        }
        invalidation.end()
        vma.anonVMA?.unlockWrite()
        vma.file!.mapLock.unlockWrite()
        return table
    }

    /// Maps a huge page of a file's cache as one. The folio and the PMD table are locked, and the entry is empty.
    func setFileLeaf(
        _ pmd: EntryPointer, _ head: FrameNumber, _ vma: VMA, _ table: PageTableNumber, write: Bool
    ) {
        frames.get(head)
        frames.addEntireMapping(head)
        if write { frames.setFlags(head, FrameFlags.dirty) }
        tables.deposit(table, at: pmd)
        tables.set(pmd, fileEntry(head, vma, write: write).leaf())
    }
}
