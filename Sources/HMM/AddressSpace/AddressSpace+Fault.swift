import Synchronization

/// How a fault ended. `.done` means that the access may be tried again, not that it will succeed.
enum FaultOutcome: Equatable {
    case done
    case segmentationFault
    case busError
    case outOfMemory
    /// The fault cannot be served under the VMA's lock alone.
    case needsMMapLock
}

/// One fault: where, for what, under which lock.
struct Fault {
    let vma: VMA
    let page: PageNumber
    let write: Bool
    /// The mmap lock is held for reading; otherwise only the VMA's lock is.
    let holdsMMapLock: Bool
}

// The way of a CPU fault, from the access to the entry.
//
// Kernel: mm/memory.c handle_mm_fault, __handle_mm_fault, handle_pte_fault (6.12).
// Every step that allocates or sleeps drops the table lock and looks again, under the lock, whether the entry is still
// the one it decided upon; if not, the fault is done without effect and the access tries again.

extension AddressSpace {
    /// Serves a fault of a CPU. No lock is held.
    func handleFault(of cpu: CPU, at page: PageNumber, write: Bool) -> FaultOutcome {
        if let vma = lockVMA(page, for: cpu) {
            let outcome = fault(Fault(vma: vma, page: page, write: write, holdsMMapLock: false))
            vma.lock.unlockRead()
            if outcome != .needsMMapLock { return outcome }
        }
        lockForReading()
        defer { unlockForReading() }
        guard let vma = vmas.find(page) else { return .segmentationFault }
        return fault(Fault(vma: vma, page: page, write: write, holdsMMapLock: true))
    }

    /// Faults in `pages`, which lie in `vma`, in order, as accesses of a CPU would, but many at a time where nothing is
    /// mapped yet. Stops at the first page that cannot be had. The mmap lock is held.
    func fault(_ pages: PageRange, in vma: VMA, write: Bool) -> FaultOutcome {
        var page = pages.lowerBound
        while page < pages.upperBound {
            let run = missingRun(page..<pages.upperBound, in: vma)
            let outcome: FaultOutcome
            if run.pageCount > 1 {
                let wanted = write ? vma.isWritable : !vma.flags.isDisjoint(with: .access)
                guard wanted else { return .segmentationFault }
                outcome = mapAnonymous(vma, run, write: write, holdsMMapLock: true)
            } else {
                outcome = faultUntilMapped(Fault(vma: vma, page: page, write: write, holdsMMapLock: true))
            }
            guard outcome == .done else { return outcome }
            page = run.upperBound
        }
        return .done
    }

    /// The pages from the first one on, within one PTE table, whose entries are empty and whose fault is the plain
    /// anonymous one; at least one page, which may be anything.
    private func missingRun(_ pages: PageRange, in vma: VMA) -> PageRange {
        let first = pages.lowerBound
        let single = first..<first.advanced(by: 1)
        guard vma.isAnonymous, !vma.isHugetlb, let pte = tables.entry(first, .pte) else { return single }
        let tableEnd = first.alignedDown(order: Geometry.pmdOrder).advanced(by: Geometry.entriesPerTable)
        let limit = min(first.distance(to: min(pages.upperBound, tableEnd)), Self.runLimit)
        var count = 0
        while count < limit, pte[count].load(ordering: .relaxed) == 0 { count += 1 }
        return count <= 1 ? single : first..<first.advanced(by: count)
    }

    /// Pages that one batch of anonymous faults maps at most.
    static let runLimit = 64

    /// One fault, repeated while it ends without effect: a device's fault has no access that would try again.
    private func faultUntilMapped(_ fault: Fault) -> FaultOutcome {
        while true {
            let outcome = self.fault(fault)
            guard outcome == .done else { return outcome }
            if permits(fault) { return .done }
        }
    }

    private func permits(_ fault: Fault) -> Bool {
        guard let (entry, _) = leaf(fault.page) else { return false }
        return entry.isAccessible && (!fault.write || entry.isWritable)
    }

    /// The leaf that maps `page` and its level, read without locks.
    package func leaf(_ page: PageNumber) -> (PageTableEntry, PageLevel)? {
        var level = PageLevel.pud
        while let slot = tables.entry(page, level) {
            let entry = tables.read(slot)
            if level == .pte || !entry.isTable { return (entry, level) }
            level = level.below
        }
        return nil
    }

    /// Serves a fault with its VMA kept by a lock.
    func fault(_ fault: Fault) -> FaultOutcome {
        let vma = fault.vma
        guard fault.write ? vma.isWritable : !vma.flags.isDisjoint(with: .access) else { return .segmentationFault }
        if vma.isHugetlb { return hugetlbFault(fault) }
        while true {
            guard let pmd = tables.entry(fault.page, making: .pmd) else { return .outOfMemory }
            let entry = tables.read(pmd)
            if entry.isNone {
                if vma.allowsHugePages, let window = vma.hugeWindow(around: fault.page),
                    let outcome = hugeAnonymousFault(fault, pmd, window)
                {
                    return outcome
                }
                if let file = vma.file, let outcome = hugeFileFault(fault, pmd, file) { return outcome }
            } else if !entry.isTable {
                return hugeLeafFault(fault, pmd, entry)
            }
            guard let pte = tables.entry(fault.page, making: .pte) else {
                // A huge leaf came between, or there is no memory for the table.
                if tables.read(pmd).isNone { return .outOfMemory }
                continue
            }
            return pteFault(fault, pte)
        }
    }

    private func pteFault(_ fault: Fault, _ pte: EntryPointer) -> FaultOutcome {
        schedulingPoint(.load, on: UInt(bitPattern: pte))
        let entry = tables.read(pte)
        if entry.isNone {
            return fault.vma.isAnonymous
                ? mapAnonymous(
                    fault.vma, fault.page..<fault.page.advanced(by: 1), write: fault.write,
                    holdsMMapLock: fault.holdsMMapLock)
                : fileFault(fault, pte)
        }
        if let leaf = entry.softLeaf { return softLeafFault(fault, pte, leaf) }
        tables.lock(pte)
        // Young and dirty may change at any time; what the entry names and permits must not have.
        let now = tables.read(pte)
        guard now.isPresent, now.frame == entry.frame else {
            tables.unlock(pte)
            return .done
        }
        if fault.write, !now.isWritable { return writeProtectFault(fault, pte, now) }
        tables.add(pte, bits: accessBits(fault.write))
        tables.unlock(pte)
        return .done
    }

    /// What an access leaves in the entry.
    func accessBits(_ write: Bool) -> UInt64 {
        write
            ? PageTableEntry.youngBit | PageTableEntry.dirtyBit | PageTableEntry.softDirtyBit
            : PageTableEntry.youngBit
    }

    /// The writable, dirty entry that a write fault installs.
    @inline(__always)
    func writableEntry(_ frame: FrameNumber) -> PageTableEntry {
        .present(frame).writable().dirty().softDirty()
    }

    // MARK: Anonymous memory

    /// Maps zeroed pages (the shared zero page for reading) where the entries of `pages`, all in one PTE table, are
    /// empty. Nobody is notified: a mirror cannot hold what was not mapped.
    ///
    /// Kernel: mm/memory.c do_anonymous_page (6.12).
    func mapAnonymous(_ vma: VMA, _ pages: PageRange, write: Bool, holdsMMapLock: Bool) -> FaultOutcome {
        guard write else {
            return mapZeroPages(pages)
        }
        if vma.anonVMA == nil {
            guard holdsMMapLock else { return .needsMMapLock }
            guard (try? prepareAnonVMA(vma)) != nil else { return .outOfMemory }
        }
        return withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: pages.pageCount) { new in
            var page = pages.lowerBound
            while page < pages.upperBound {
                let wanted = page.distance(to: pages.upperBound)
                let count = frames.allocateSingles(wanted, into: new.baseAddress!)
                guard count > 0 else { return .outOfMemory }
                for i in 0..<count { clearPages(frames.bytes(of: new[i])) }
                guard install(UnsafeMutableBufferPointer(rebasing: new[0..<count]), at: page, in: vma) else {
                    return .done
                }
                page = page.advanced(by: count)
            }
            return .done
        }
    }

    /// Maps new frames where the entries are still empty and gives the others back. False when the table is gone: a
    /// huge leaf stands there.
    private func install(
        _ new: UnsafeMutableBufferPointer<FrameNumber>, at page: PageNumber, in vma: VMA
    ) -> Bool {
        guard let pte = tables.lockPTE(page) else {
            frames.freeUnusedSingles(new.baseAddress!, count: new.count)
            return false
        }
        let mapping = FrameMapping.anonymous(vma.anonVMA!.id)
        let index = vma.index(of: page)
        var unused = 0
        for i in 0..<new.count {
            if tables.read(pte + i).isNone {
                frames.initializeAnonymous(new[i], mapping: mapping, index: index + UInt64(i))
                tables.set(pte + i, writableEntry(new[i]))
            } else {
                new[unused] = new[i]
                unused += 1
            }
        }
        tables.unlock(pte)
        if unused > 0 { frames.freeUnusedSingles(new.baseAddress!, count: unused) }
        return true
    }

    private func mapZeroPages(_ pages: PageRange) -> FaultOutcome {
        guard let pte = tables.lockPTE(pages.lowerBound) else { return .done }
        for i in 0..<pages.pageCount where tables.read(pte + i).isNone { tables.set(pte + i, .zeroPage) }
        tables.unlock(pte)
        return .done
    }

    // MARK: Entries that say where the page went

    private func softLeafFault(_ fault: Fault, _ pte: EntryPointer, _ leaf: SoftLeaf) -> FaultOutcome {
        switch leaf.kind {
        case .migration:
            // Whoever holds the folio lock replaces the entry. We hold no reference, so we cannot be in its way.
            frames.waitForUnlock(leaf.frame, while: pte, holds: leaf.entry.raw)
            return .done
        case .swap: return swapIn(fault, pte, leaf)
        case .devicePrivate: return devicePrivateFault(fault, pte, leaf, leaf.frame)
        case .deviceExclusive: return restoreExclusive(fault.vma, fault.page, pte, leaf)
        case .poison: return .busError
        case .marker:
            switch leaf.marker {
            case .poisoned: return .busError
            case .guarded: return .segmentationFault
            case .uffdWP: return clearMarker(pte, leaf)
            }
        }
    }

    /// A write-protect marker of a place where nothing is mapped: the page is faulted in anew, without it.
    private func clearMarker(_ pte: EntryPointer, _ leaf: SoftLeaf) -> FaultOutcome {
        tables.lock(pte)
        if tables.read(pte) == leaf.entry { _ = tables.exchange(pte, .empty) }
        tables.unlock(pte)
        return .done
    }

    /// The page is in device memory that a CPU cannot reach: its driver brings it back.
    ///
    /// The folio is locked *before* it is referenced, by trylock under the table lock. Of several CPUs that fault on
    /// one page one gets to call the driver; the others sleep until the lock is dropped, holding no reference that
    /// would make the migration fail, and then look again.
    ///
    /// Kernel: mm/memory.c do_swap_page (6.12), with the fixes of CVE-2022-3523 and "mm/migrate: Trylock device page in
    /// do_swap_page". Differs from Linux: the losers sleep instead of spinning.
    ///
    /// - Parameters:
    ///   - slot: the entry, of a single page or of 2 MiB that are on the device as a whole.
    ///   - frame: the frame of the page that was touched.
    func devicePrivateFault(
        _ fault: Fault, _ slot: EntryPointer, _ leaf: SoftLeaf, _ frame: FrameNumber
    ) -> FaultOutcome {
        guard fault.holdsMMapLock else { return .needsMMapLock }
        tables.lock(slot)
        guard tables.read(slot) == leaf.entry else {
            tables.unlock(slot)
            return .done
        }
        let head = frames.head(of: frame)
        guard frames.tryLockFolio(head) else {
            tables.unlock(slot)
            frames.waitForUnlock(frame, while: slot, holds: leaf.entry.raw)
            return .done
        }
        frames.get(head)
        tables.unlock(slot)
        return bringHome(fault, frame)
    }

    /// Calls the driver with the folio locked and referenced; lets go of both afterwards.
    private func bringHome(_ fault: Fault, _ frame: FrameNumber) -> FaultOutcome {
        defer {
            // The driver may have split the folio; lock and reference stay with the part that holds the page.
            let head = frames.head(of: frame)
            frames.unlockFolio(head)
            frames.put(head)
        }
        guard let handler = machine.privateFaultHandler(for: frame) else { return .busError }
        do throws(HMMError) {
            try handler.migrateToSystem(self, page: fault.page, frame: frame)
            return .done
        } catch {
            return error.code == .outOfMemory ? .outOfMemory : .busError
        }
    }
}
