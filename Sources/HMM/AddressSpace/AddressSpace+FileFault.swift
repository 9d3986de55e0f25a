import Synchronization

// Faults on mappings of files and shared memory where nothing is mapped yet.
//
// A read maps, besides the page asked for, whatever of the 64 KiB around it is in the page cache already: a device that
// reads one page of shared memory can find fifteen others present.
//
// Kernel: mm/memory.c do_read_fault, do_fault_around, do_shared_fault; mm/filemap.c filemap_map_pages (6.12).

extension AddressSpace {
    /// Pages that a read fault may map at once.
    private static let faultAroundOrder = 4

    func fileFault(_ fault: Fault, _ pte: EntryPointer) -> FaultOutcome {
        let file = fault.vma.file!
        let index = fault.vma.index(of: fault.page)
        guard index < UInt64(file.pageCount) else { return .busError }
        if fault.write, !fault.vma.isShared { return privateFileWriteFault(fault, pte, file) }
        if !fault.write, mapAround(fault, pte, file) { return .done }
        guard let frame = try? file.lockedPage(Int(index)) else { return .outOfMemory }
        let head = frames.head(of: frame)
        defer {
            frames.unlockFolio(head)
            frames.put(head)
        }
        guard !frames.hasFlags(frame, FrameFlags.poisoned) else { return .busError }
        tables.lock(pte)
        if file.isSharedAnonymous, let pages = placeOfFolio(fault, pte, head, frame) {
            for i in 0..<pages { mapFilePage(pte - (frame - head) + i, head + i, fault.vma, write: fault.write) }
        } else if tables.read(pte).isNone {
            mapFilePage(pte, frame, fault.vma, write: fault.write)
        }
        tables.unlock(pte)
        return .done
    }

    /// The number of pages of a large folio that can be mapped together with the faulting one: all of them, if they lie
    /// in the mapping and in one table, and nothing is mapped there. The table is locked.
    ///
    /// Kernel: mm/memory.c finish_fault (6.12).
    private func placeOfFolio(
        _ fault: Fault, _ pte: EntryPointer, _ head: FrameNumber, _ frame: FrameNumber
    ) -> Int? {
        let count = frames.pageCount(ofHead: head)
        guard count > 1, !fault.vma.flags.contains(.uffdWP) else { return nil }
        let before = frame - head
        let first = PageTables.index(fault.page, .pte) - before
        guard first >= 0, first + count <= Geometry.entriesPerTable,
            fault.vma.pages.lowerBound.distance(to: fault.page) >= before,
            fault.page.distance(to: fault.vma.pages.upperBound) >= count - before
        else { return nil }
        for i in 0..<count where !tables.read(pte - before + i).isNone { return nil }
        return count
    }

    /// Maps one page of the cache, which is locked. The table is locked and the entry empty.
    private func mapFilePage(_ pte: EntryPointer, _ frame: FrameNumber, _ vma: VMA, write: Bool) {
        frames.get(frame)
        frames.addMapping(frame)
        if write { frames.setFlags(frames.head(of: frame), FrameFlags.dirty) }
        tables.set(pte, fileEntry(frame, vma, write: write))
    }

    /// Shared memory needs no tracking of dirty pages, so a writable shared mapping is writable from the first read.
    func fileEntry(_ frame: FrameNumber, _ vma: VMA, write: Bool) -> PageTableEntry {
        if write { return writableEntry(frame) }
        return PageTableEntry.present(frame).writable(vma.isShared && vma.isWritable)
    }

    /// The pages that a read fault may map: 64 KiB from the aligned block on that holds `page`, or from the start of
    /// the mapping on if that comes later. The end is not aligned then; it is cut at the ends of the mapping and the
    /// table.
    private static func windowAround(_ page: PageNumber, in vma: VMA) -> PageRange {
        let start = max(page.alignedDown(order: faultAroundOrder), vma.pages.lowerBound)
        let tableEnd = page.alignedDown(order: Geometry.pmdOrder).advanced(by: Geometry.entriesPerTable)
        return start..<min(start.advanced(by: 1 << faultAroundOrder), tableEnd, vma.pages.upperBound)
    }

    /// Maps the pages around the fault that are in the cache, up to date and not locked. Answers whether the faulting
    /// page was one of them.
    private func mapAround(_ fault: Fault, _ pte: EntryPointer, _ file: FileMapping) -> Bool {
        let vma = fault.vma
        let window = Self.windowAround(fault.page, in: vma)
        let first = pte - window.lowerBound.distance(to: fault.page)
        var isMapped = false
        for i in 0..<window.pageCount {
            let page = window.lowerBound.advanced(by: i)
            let index = vma.index(of: page)
            guard index < UInt64(file.pageCount), let frame = file.cache.get(Int(index)) else { continue }
            let head = frames.head(of: frame)
            if frames.tryLockFolio(head) {
                if mayMapAround(file, Int(index), frame) {
                    tables.lock(pte)
                    if tables.read(first + i).isNone { mapFilePage(first + i, frame, vma, write: false) }
                    tables.unlock(pte)
                    if page == fault.page { isMapped = true }
                }
                frames.unlockFolio(head)
            }
            frames.put(frame)
        }
        return isMapped
    }

    private func mayMapAround(_ file: FileMapping, _ index: Int, _ frame: FrameNumber) -> Bool {
        file.cache.content(index) == .frame(frame) && !frames.hasFlags(frame, FrameFlags.poisoned)
    }
}
