import Synchronization

// Faults on hugetlb memory: the first touch of any 4 KiB maps the whole page.
//
// Kernel: mm/hugetlb.c hugetlb_fault, hugetlb_no_page (6.12).
// Locks: mmap or VMA (the caller's) > fault mutex of the page > hugetlb lock of the VMA (reading) > folio > reverse
// maps > PMD table.

/// One fault, with the place that it concerns.
struct HugetlbFault {
    let fault: Fault
    /// The first page of the huge page.
    let start: PageNumber
    /// Its number within the file.
    let index: Int

    init(_ fault: Fault) {
        self.fault = fault
        start = fault.page.alignedDown(order: Geometry.pmdOrder)
        index = fault.vma.hugetlbIndex(of: start)
    }

    var vma: VMA { fault.vma }
    var pages: PageRange { start..<start.advanced(by: hugetlbSpan) }
}

/// What is left to do of a fault when its locks are dropped.
enum HugetlbFaultStep {
    case ended(FaultOutcome)
    /// The page is locked, and the entry held this.
    case wait(FrameNumber, EntryPointer, PageTableEntry)
    /// The owner of the promise needs the page for itself: it is taken away from everybody else.
    case takeFromOthers(FrameNumber)
}

extension AddressSpace {
    func hugetlbFault(_ fault: Fault) -> FaultOutcome {
        let place = HugetlbFault(fault)
        let mutex = frames.hugetlb.faultMutex(file: place.vma.file!.id, page: place.index)
        mutex.lock()
        place.vma.hugetlbLock.lockRead()
        let step = lockedHugetlbFault(place)
        place.vma.hugetlbLock.unlockRead()
        mutex.unlock()
        switch step {
        case .ended(let outcome): return outcome
        case .wait(let frame, let pmd, let entry):
            frames.waitForUnlock(frame, while: pmd, holds: entry.raw)
            return .done
        case .takeFromOthers(let head):
            // The access that is tried again finds the page exclusive.
            takeFromOthers(place, head)
            frames.put(head)
            return .done
        }
    }

    /// The fault mutex and the VMA's hugetlb lock are held.
    private func lockedHugetlbFault(_ place: HugetlbFault) -> HugetlbFaultStep {
        guard let pmd = tables.entry(place.start, making: .pmd) else { return .ended(.outOfMemory) }
        schedulingPoint(.load, on: UInt(bitPattern: pmd))
        let seen = tables.read(pmd)
        if seen.isNone { return .ended(missingHugetlb(place, pmd)) }
        if let leaf = seen.softLeaf {
            // Without smaller mappings only these two can stand here.
            return leaf.kind == .migration ? .wait(leaf.frame, pmd, seen) : .ended(.busError)
        }
        tables.lock(pmd)
        let entry = tables.read(pmd)
        guard entry.isHugeLeaf, entry.frame == seen.frame else {
            tables.unlock(pmd)
            return .ended(.done)
        }
        if place.fault.write, !entry.isWritable { return hugetlbWriteProtectFault(place, pmd, entry) }
        tables.add(pmd, bits: accessBits(place.fault.write))
        tables.unlock(pmd)
        return .ended(.done)
    }

    // MARK: Nothing mapped yet

    private func missingHugetlb(_ place: HugetlbFault, _ pmd: EntryPointer) -> FaultOutcome {
        // Zeros where data was would look like corruption.
        guard !place.vma.hasLostHugetlbPage.load(ordering: .acquiring) else { return .busError }
        return place.vma.isShared ? mapSharedHugetlb(place, pmd) : mapPrivateHugetlb(place, pmd)
    }

    /// There is no shared page of zeros: also a read takes a page of the pool.
    private func mapPrivateHugetlb(_ place: HugetlbFault, _ pmd: EntryPointer) -> FaultOutcome {
        let vma = place.vma
        if vma.anonVMA == nil {
            guard place.fault.holdsMMapLock else { return .needsMMapLock }
            guard (try? prepareAnonVMA(vma)) != nil else { return .outOfMemory }
        }
        guard let new = allocateHugetlb(vma, place.index) else { return .busError }
        clearPages(frames.bytes(of: new.head), count: hugetlbSpan)
        tables.lock(pmd)
        let isFree = tables.read(pmd).isNone
        if isFree {
            initializeHugetlbAnonymous(vma, new.head, at: place.start)
            let entry = place.fault.write ? writableEntry(new.head) : .present(new.head)
            tables.set(pmd, entry.leaf())
        }
        tables.unlock(pmd)
        if !isFree { giveBackHugetlb(vma, place.index, new) }
        return .done
    }

    /// The page of the file, writable at once if the mapping is: there is nothing to track.
    private func mapSharedHugetlb(_ place: HugetlbFault, _ pmd: EntryPointer) -> FaultOutcome {
        guard place.index * hugetlbSpan < place.vma.file!.pageCount else { return .busError }
        guard let head = lockedHugetlbPage(place) else { return .busError }
        defer {
            frames.unlockFolio(head)
            frames.put(head)
        }
        guard !frames.hasFlags(head, FrameFlags.hasPoison) else { return .busError }
        tables.lock(pmd)
        if tables.read(pmd).isNone {
            frames.get(head)
            frames.addEntireMapping(head)
            let entry = place.vma.isWritable ? writableEntry(head) : .present(head)
            tables.set(pmd, entry.leaf())
        }
        tables.unlock(pmd)
        return .done
    }

    /// The page in the file's cache, put there if it is missing: locked, with a reference. Nil when the pool has none.
    private func lockedHugetlbPage(_ place: HugetlbFault) -> FrameNumber? {
        let file = place.vma.file!
        let slot = place.index * hugetlbSpan
        // The fault mutex keeps others from filling or emptying the slot.
        if let head = file.cache.get(slot) {
            frames.lockFolio(head)
            return head
        }
        guard let new = allocateHugetlb(place.vma, place.index) else { return nil }
        clearPages(frames.bytes(of: new.head), count: hugetlbSpan)
        frames.clearFlags(new.head, FrameFlags.restoresReserve)
        frames.setMapping(new.head, .file(file.id), index: UInt64(slot))
        frames.setFlags(new.head, FrameFlags.upToDate | FrameFlags.dirty)
        frames.lockFolio(new.head)
        frames.get(new.head)  // the reference of the cache
        let isFirst = file.cache.replace(slot, .empty, with: .frame(new.head))
        precondition(isFirst, "a hugetlb page appeared without the fault mutex")
        return new.head
    }
}
