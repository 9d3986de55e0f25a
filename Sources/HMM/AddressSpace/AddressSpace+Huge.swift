import Synchronization

// Transparent huge pages: faults on 2 MiB at once, and writes to a huge leaf.
//
// Kernel: mm/huge_memory.c do_huge_pmd_anonymous_page, do_huge_pmd_wp_page (6.12).

extension AddressSpace {
    /// Maps 2 MiB where nothing is mapped and no table exists: the shared zeros for reading, a new folio for writing.
    /// Nil: no memory for it, take single pages.
    func hugeAnonymousFault(_ fault: Fault, _ pmd: EntryPointer, _ window: PageRange) -> FaultOutcome? {
        let vma = fault.vma
        if vma.anonVMA == nil {
            guard fault.holdsMMapLock else { return .needsMMapLock }
            guard (try? prepareAnonVMA(vma)) != nil else { return .outOfMemory }
        }
        let head: FrameNumber
        if fault.write {
            guard let folio = frames.allocateFolio(order: Geometry.pmdOrder) else { return nil }
            clearPages(frames.bytes(of: folio), count: 1 << Geometry.pmdOrder)
            head = folio
        } else {
            head = FrameTable.hugeZeroFrame
        }
        guard let table = tables.pool.allocate(.pte) else {
            if fault.write { frames.put(head) }
            return .outOfMemory
        }
        tables.lock(pmd)
        let isFree = tables.read(pmd).isNone
        if isFree {
            tables.deposit(table, at: pmd)
            if fault.write {
                frames.initializeHugeAnonymous(
                    head, mapping: .anonymous(vma.anonVMA!.id), index: vma.index(of: window.lowerBound))
                tables.set(pmd, writableEntry(head).leaf())
            } else {
                tables.set(pmd, .hugeZeroPage)
            }
        }
        tables.unlock(pmd)
        if !isFree {
            tables.pool.free(table)
            if fault.write { frames.put(head) }
        }
        return .done
    }

    /// Maps a huge page of a file's cache as one, where nothing is mapped and no table exists. Nil: there is none, or
    /// it cannot be mapped so; take single pages.
    ///
    /// Kernel: mm/memory.c do_set_pmd, mm/filemap.c filemap_map_pmd (6.12).
    func hugeFileFault(_ fault: Fault, _ pmd: EntryPointer, _ file: FileMapping) -> FaultOutcome? {
        let vma = fault.vma
        guard !fault.write || vma.isShared, !vma.flags.contains(.noHugePage), vma.isAlignedWithFile,
            let window = vma.hugeWindow(around: fault.page)
        else { return nil }
        let index = Int(vma.index(of: window.lowerBound))
        guard index < file.pageCount, let head = file.cache.get(index) else { return nil }
        defer { frames.put(head) }
        guard frames.order(ofHead: frames.head(of: head)) == Geometry.pmdOrder else { return nil }
        frames.lockFolio(frames.head(of: head))
        defer { frames.unlockFolio(frames.head(of: head)) }
        guard file.cache.content(index) == .frame(head), !frames.hasFlags(head, FrameFlags.tail | FrameFlags.hasPoison)
        else { return nil }
        guard let table = tables.pool.allocate(.pte) else { return .outOfMemory }
        tables.lock(pmd)
        let isFree = tables.read(pmd).isNone
        if isFree { setFileLeaf(pmd, head, vma, table, write: fault.write) }
        tables.unlock(pmd)
        if !isFree { tables.pool.free(table) }
        return .done
    }

    /// A fault on a PMD entry that is a leaf.
    func hugeLeafFault(_ fault: Fault, _ pmd: EntryPointer, _ seen: PageTableEntry) -> FaultOutcome {
        if let leaf = seen.softLeaf {
            if leaf.kind == .devicePrivate {
                return devicePrivateFault(fault, pmd, leaf, leaf.frame + Int(fault.page.raw & 511))
            }
            frames.waitForUnlock(leaf.frame, while: pmd, holds: seen.raw)
            return .done
        }
        tables.lock(pmd)
        let entry = tables.read(pmd)
        guard entry.isHugeLeaf, entry.frame == seen.frame else {
            tables.unlock(pmd)
            return .done
        }
        if fault.write, !entry.isWritable { return hugeWriteProtectFault(fault, pmd, entry) }
        tables.add(pmd, bits: accessBits(fault.write))
        tables.unlock(pmd)
        return .done
    }

    /// Writes in place if nobody shares the folio; otherwise the leaf is split, and the single page copied by the fault
    /// that follows. The PMD table is locked on entry and unlocked on return.
    private func hugeWriteProtectFault(
        _ fault: Fault, _ pmd: EntryPointer, _ entry: PageTableEntry
    ) -> FaultOutcome {
        if entry.isUffdWP {
            tables.unlock(pmd)
            return .busError
        }
        if !entry.isSpecial, fault.vma.isShared || canReuseHuge(entry.frame, fault.vma) {
            markDirty(entry.frame)
            tables.add(pmd, bits: PageTableEntry.writableBit | accessBits(true))
            tables.unlock(pmd)
            return .done
        }
        tables.unlock(pmd)
        splitHugeLeaf(around: fault.page, in: fault.vma, always: true)
        return .done
    }

    private func canReuseHuge(_ head: FrameNumber, _ vma: VMA) -> Bool {
        if frames.isAnonExclusive(head) { return true }
        guard frames.isAnonymous(head), frames.refCount(head) == 1, frames.tryLockFolio(head) else { return false }
        defer { frames.unlockFolio(head) }
        guard frames.refCount(head) == 1 else { return false }
        frames.setFlags(head, FrameFlags.anonExclusive)
        moveAnonymous(head, to: vma)
        return true
    }
}

extension FrameTable {
    /// As `initializeAnonymous`, for a folio that one PMD leaf maps as a whole.
    func initializeHugeAnonymous(_ head: FrameNumber, mapping: FrameMapping, index: UInt64) {
        setMapping(head, mapping, index: index)
        addEntireMapping(head)
        setFlags(head, FrameFlags.upToDate | FrameFlags.dirty | FrameFlags.onLRU | FrameFlags.anonExclusive)
    }
}
