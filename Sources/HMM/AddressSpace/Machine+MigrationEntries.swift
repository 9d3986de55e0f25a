import Synchronization

// All entries of a folio become migration entries, and migration entries become entries again: the two halves of every
// operation that needs a folio which nobody can reach (a split, a migration), while its pages stay where programs look
// for them.
//
// Between the two, whoever meets an entry waits for the folio lock. Who unmaps, forks, protects or moves the range
// changes or removes the entries as it would any other.
//
// Kernel: mm/rmap.c try_to_migrate_one, mm/migrate.c remove_migration_pte, mm/huge_memory.c set_pmd_migration_entry,
// remove_migration_pmd (6.12).
// Locks: folio (the caller's) > reverse map (reading) > PMD table > PTE table.

extension Machine {
    /// Replaces every entry that names the folio, of whatever address space and size, by a migration entry. Answers
    /// whether nothing maps the folio any more: a page that may be pinned keeps its entry, and ends the attempt.
    ///
    /// The folio is locked, and the caller has a reference of its own; those of the replaced entries are dropped. Each
    /// VMA that is looked at, whether it maps the folio or not, hears a CLEAR invalidation of the folio's whole span;
    /// the look ends as soon as nothing maps the folio. Undone by `removeMigrationEntries`.
    /// - Parameter splittingLeaves: a leaf of 2 MiB becomes 512 single migration entries, not one huge one.
    package func installMigrationEntries(_ head: FrameNumber, splittingLeaves: Bool = false) -> Bool {
        walkReverseMap(head) { vma, pages, offset in
            vma.space.installMigrationEntries(vma, pages, naming: head + offset, splittingLeaves: splittingLeaves)
                && frames.mappingCount(head) > 0
        }
        return frames.mappingCount(head) == 0
    }

    /// Replaces the migration entries that name the `count` pages from `old` on by entries of the pages from `new` on,
    /// each with a reference and a mapping. Nobody is notified: nobody could have mirrored what was not there.
    ///
    /// `new` has the identity (mapping and index) already, and is `old` itself where nothing moved. The folios of `new`
    /// are locked by the caller.
    /// - Parameters:
    ///   - count: the pages of the folio of `new`; more where a folio was just split.
    ///   - mappingZeroPages: single anonymous pages of nothing but zeros are replaced by the shared zero page.
    package func removeMigrationEntries(
        from old: FrameNumber, to new: FrameNumber, count: Int? = nil, mappingZeroPages: Bool = false
    ) {
        let restore = MigrationRestore(old: old, new: new, mappingZeroPages: mappingZeroPages)
        walkReverseMap(new, count: count ?? frames.pageCount(ofHead: new)) { vma, pages, offset in
            vma.space.removeMigrationEntries(vma, pages, restore.advanced(by: offset))
            return true
        }
    }
}

/// Which frames' migration entries become entries of which frames.
private struct MigrationRestore {
    let old: FrameNumber
    let new: FrameNumber
    let mappingZeroPages: Bool

    func advanced(by pages: Int) -> MigrationRestore {
        MigrationRestore(old: old + pages, new: new + pages, mappingZeroPages: mappingZeroPages)
    }
}

// MARK: Installing

extension AddressSpace {
    /// As `FrameTable.migrationEntry`, for an entry of a mapping.
    func migrationEntry(replacing old: PageTableEntry, in vma: VMA) -> PageTableEntry? {
        frames.migrationEntry(replacing: old, isMappingWritable: vma.isWritable)
    }

    fileprivate func installMigrationEntries(
        _ vma: VMA, _ pages: PageRange, naming first: FrameNumber, splittingLeaves: Bool
    ) -> Bool {
        if splittingLeaves { tellOfSplit(around: pages.lowerBound) }
        let invalidation = beginInvalidation(.clear, pages)
        var cursor = PageTableCursor(tables, pages)
        var isDone = true
        while isDone, let step = cursor.advance() {
            let frame = first + pages.lowerBound.distance(to: step.pages.lowerBound)
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                switch installHugeMigrationEntry(vma, step, frame, isSplit: splittingLeaves) {
                case .done: continue
                case .changed: cursor.restart(at: step.pages.lowerBound)
                case .pinned: isDone = false
                }
            case .pteTable:
                switch installMigrationRun(vma, step, frame) {
                case .done: continue
                case .changed: cursor.restart(at: step.pages.lowerBound)
                case .pinned: isDone = false
                }
            }
        }
        invalidation.end()
        return isDone
    }

    /// A split tells of all 2 MiB, whether a leaf is there or not, and whether the mapping reaches so far or not.
    ///
    /// Kernel: mm/huge_memory.c split_huge_pmd_address, called by try_to_migrate_one (6.12).
    private func tellOfSplit(around page: PageNumber) {
        guard tables.entry(page, .pmd) != nil else { return }
        let start = page.alignedDown(order: Geometry.pmdOrder)
        beginInvalidation(.clear, start..<start.advanced(by: Geometry.entriesPerTable)).end()
    }

    private enum Installed {
        case done
        /// The tables are not what they were: look again at the same place.
        case changed
        /// A page may be pinned, or cannot be taken from the device that uses it.
        case pinned
    }

    /// Whether the entry names this page in a way that a migration entry can stand for.
    private func isReplaceable(_ entry: PageTableEntry, naming frame: FrameNumber) -> Bool {
        if entry.isPresent { return !entry.isSpecial && entry.frame == frame }
        guard let leaf = entry.softLeaf, leaf.holdsReference else { return false }
        return leaf.frame == frame
    }

    /// The entries of one table that name the pages from `frame` on.
    private func installMigrationRun(
        _ vma: VMA, _ step: PageTableCursor.Step, _ frame: FrameNumber
    ) -> Installed {
        let count = step.pages.pageCount
        return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: count) { old in
            tables.lock(step.entry)
            defer { tables.unlock(step.entry) }
            guard tables.read(step.parent) == step.seen else { return .changed }
            var wasPresent = false
            for i in 0..<count {
                let entry = tables.read(step.entry + i)
                old[i] = 0
                guard isReplaceable(entry, naming: frame + i) else { continue }
                // Cleared first, flushed once, and only then asked whether the pages may be pinned.
                let cleared = tables.exchange(step.entry + i, .empty)
                old[i] = cleared.raw
                wasPresent = wasPresent || cleared.isPresent
            }
            if wasPresent { flushTLB() }
            var outcome = Installed.done
            for i in 0..<count where old[i] != 0 {
                let entry = PageTableEntry(raw: old[i])
                if outcome == .done, !isHeldByDevice(entry), let new = replacement(entry, vma) {
                    tables.set(step.entry + i, new)
                    frames.removeMapping(frame + i)
                    frames.put(frame + i)
                } else {
                    outcome = .pinned
                    tables.set(step.entry + i, entry)
                }
            }
            return outcome
        }
    }

    /// A failed page keeps nothing but the mark that it failed.
    private func replacement(_ old: PageTableEntry, _ vma: VMA) -> PageTableEntry? {
        frames.hasFlags(old.frame, FrameFlags.poisoned)
            ? SoftLeaf.poison(old.frame).entry : migrationEntry(replacing: old, in: vma)
    }

    /// In 6.12 a page that a device has exclusively is no mapping of its folio, so that nothing takes it away but the
    /// restore for a CPU.
    private func isHeldByDevice(_ entry: PageTableEntry) -> Bool {
        machine.profile.exclusiveConvertsFolio && entry.softLeaf?.kind == .deviceExclusive
    }

    /// One leaf of 2 MiB that maps the folio with this head.
    private func installHugeMigrationEntry(
        _ vma: VMA, _ step: PageTableCursor.Step, _ head: FrameNumber, isSplit: Bool
    ) -> Installed {
        let pmd = step.entry
        tables.lock(pmd)
        defer { tables.unlock(pmd) }
        let seen = tables.read(pmd)
        if seen.isTable { return .changed }
        guard !seen.isNone, isReplaceable(seen, naming: head) else { return .done }
        guard step.pages.pageCount == 1 << Geometry.pmdOrder else {
            preconditionFailure("a huge leaf reaches beyond its mapping")
        }
        if isSplit {
            // Single migration entries at once; single present ones, if the folio may be pinned.
            splitLeaf(pmd, migrating: vma)
            return .changed
        }
        let old = hideLeaf(pmd)
        if old.isPresent { flushTLB() }
        guard let new = migrationEntry(replacing: old, in: vma) else {
            tables.set(pmd, old)
            return .pinned
        }
        tables.set(pmd, new)
        frames.removeEntireMapping(head)
        frames.put(head)
        return .done
    }
}

// MARK: Restoring

extension AddressSpace {
    fileprivate func removeMigrationEntries(_ vma: VMA, _ pages: PageRange, _ restore: MigrationRestore) {
        var cursor = PageTableCursor(tables, pages)
        while let step = cursor.advance() {
            let part = restore.advanced(by: pages.lowerBound.distance(to: step.pages.lowerBound))
            switch step.kind {
            case .hole, .pudLeaf: continue
            case .pmdLeaf:
                if !restoreHugeLeaf(vma, step, part) { cursor.restart(at: step.pages.lowerBound) }
            case .pteTable:
                if !restoreRun(vma, step, part) { cursor.restart(at: step.pages.lowerBound) }
            }
        }
    }

    /// False when the table was not there any more.
    private func restoreRun(_ vma: VMA, _ step: PageTableCursor.Step, _ restore: MigrationRestore) -> Bool {
        tables.lock(step.entry)
        defer { tables.unlock(step.entry) }
        guard tables.read(step.parent) == step.seen else { return false }
        for i in 0..<step.pages.pageCount {
            let pte = step.entry + i
            guard let leaf = tables.read(pte).softLeaf, leaf.kind == .migration, leaf.frame == restore.old + i else {
                continue
            }
            let frame = restore.new + i
            if restore.mappingZeroPages, let zero = zeroEntry(vma, leaf, frame) {
                tables.set(pte, zero)
                continue
            }
            frames.get(frame)
            frames.addMapping(frame)
            tables.set(pte, frames.restoredEntry(leaf, frame, vma.flags))
        }
        return true
    }

    /// The shared zero page for a single page that holds nothing else, except where pages are locked in memory.
    ///
    /// Kernel: mm/migrate.c try_to_map_unused_to_zeropage (6.12).
    private func zeroEntry(_ vma: VMA, _ leaf: SoftLeaf, _ frame: FrameNumber) -> PageTableEntry? {
        guard !frames.isLarge(frame), !vma.flags.contains(.locked), frames.isAnonymous(frame),
            !frames.hasFlags(frame, FrameFlags.poisoned), frames.isZero(frame)
        else { return nil }
        let entry = PageTableEntry.zeroPage.tracking(leaf.entry.trackingBits)
        return vma.flags.isDisjoint(with: .access) ? entry.protNone() : entry
    }

    /// False when the leaf has to be looked at again, as single entries.
    private func restoreHugeLeaf(_ vma: VMA, _ step: PageTableCursor.Step, _ restore: MigrationRestore) -> Bool {
        let pmd = step.entry
        tables.lock(pmd)
        defer { tables.unlock(pmd) }
        let seen = tables.read(pmd)
        if seen.isTable { return false }
        guard let leaf = seen.softLeaf, leaf.kind == .migration, leaf.frame == restore.old else { return true }
        guard frames.order(ofHead: restore.new) == Geometry.pmdOrder, !frames.hasFlags(restore.new, FrameFlags.tail)
        else {
            splitLeaf(pmd)
            return false
        }
        frames.get(restore.new)
        frames.addEntireMapping(restore.new)
        tables.set(pmd, frames.restoredEntry(leaf, restore.new, vma.flags))
        return true
    }
}

// MARK: One entry

extension FrameTable {
    /// The migration entry that takes the place of `old`, or nil when `old` must be put back, because its page may be
    /// pinned. `old` names a counted page, by a present, device-private or device-exclusive entry; it was cleared just
    /// before, so that no new pin can come by it. The table is locked.
    ///
    /// What the entry knew goes on: dirty to the folio too; young and dirty of a present entry, soft-dirty and uffd-wp
    /// of any. The exclusive mark of an anonymous page moves from the page into the entry.
    @inline(__always)
    package func migrationEntry(replacing old: PageTableEntry, isMappingWritable: Bool) -> PageTableEntry? {
        let frame = old.frame
        let isHuge = old.raw & PageTableEntry.leafBit != 0
        let isExclusive = isAnonExclusive(frame)
        if isExclusive, !tryShareExclusive(frame) { return nil }
        var carried = old.trackingBits
        var isWritable = old.isWritable
        if old.isPresent {
            carried |= old.raw & (PageTableEntry.youngBit | PageTableEntry.dirtyBit)
            if old.isDirty { markDirty(frame) }
        } else if let leaf = old.softLeaf, leaf.kind == .devicePrivate {
            isWritable = leaf.isWriteKind
        } else {
            // The device had the right to write that the mapping gives, and may have used it.
            isWritable = isExclusive && isMappingWritable && !old.isUffdWP
            carried |= PageTableEntry.dirtyBit
            markDirty(frame)
        }
        let right: SoftLeaf.MigrationRight = isWritable ? .write : isExclusive ? .readExclusive : .read
        return SoftLeaf.migration(frame, right, carrying: carried, huge: isHuge).entry
    }

    /// The entry that a migration entry becomes in a mapping with these properties, and the page's exclusive mark with
    /// it.
    @inline(__always)
    func restoredEntry(_ leaf: SoftLeaf, _ frame: FrameNumber, _ mapping: VMAFlags) -> PageTableEntry {
        let head = head(of: frame)
        if leaf.isWriteKind || leaf.isReadExclusive, self.mapping(ofHead: head).isAnonymous {
            setFlags(frame, FrameFlags.anonExclusive)
        }
        if isDevicePrivate(frame) {
            return SoftLeaf.devicePrivate(
                frame, write: leaf.isWriteKind, tracking: leaf.entry.trackingBits, huge: leaf.isHuge
            ).entry
        }
        var entry = PageTableEntry.present(frame).tracking(leaf.entry.trackingBits).leaf(leaf.isHuge)
        entry = entry.young(leaf.entry.isYoung).writable(leaf.isWriteKind)
        entry = entry.dirty(leaf.entry.isDirty && hasFlags(head, FrameFlags.dirty))
        return mapping.isDisjoint(with: .access) ? entry.writable(false).protNone() : entry
    }

    @inline(__always)
    private func markDirty(_ frame: FrameNumber) {
        let head = head(of: frame)
        if !hasFlags(head, FrameFlags.dirty) { setFlags(head, FrameFlags.dirty) }
    }
}
