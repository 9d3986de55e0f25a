/// A mirror that is a sorted list of pages, each with its entry: small, deterministic, without huge entries.
///
/// For drivers that mirror little and want to see exactly what they stored, like the reference driver.
public final class FlatMirror: MirrorTable, @unchecked Sendable {
    /// What a commit does where another translation stands already.
    public enum ConflictPolicy: Sendable {
        /// Drops the old entry and fails: an invalidation was missed.
        case fail
        /// Stores the new one: the driver filters its own migrations and overwrites afterwards.
        case replace
    }

    private struct Slot {
        var page: PageNumber
        var entry: MirrorEntry
    }

    private let effects: MirrorEffects
    private let policy: ConflictPolicy
    private let mayAllocate: MirrorAllocationHook?
    private let gate = MirrorGate()
    /// Held around a few instructions, and never while waiting for the device: its accesses mark pages dirty under it.
    private let lock = SpinLock(.mirrorDirectory)
    /// Ascending by page. Guarded by `lock`, as are the counts.
    private var slots: [Slot] = []
    private var inconsistentCommits = 0
    private var dirtyWithoutWrite = 0

    public init(
        onConflict policy: ConflictPolicy = .fail, effects: MirrorEffects = .init(),
        mayAllocate: MirrorAllocationHook? = nil
    ) {
        self.policy = policy
        self.effects = effects
        self.mayAllocate = mayAllocate
    }

    /// Whether `address` names a lock of the mirror.
    func holds(_ address: UInt) -> Bool { address == lock.address || address == gate.waitKey }

    /// The place of the first entry at or behind a page.
    private func place(of page: PageNumber) -> Int {
        var low = 0
        var high = slots.count
        while low < high {
            let middle = (low + high) / 2
            if slots[middle].page < page { low = middle + 1 } else { high = middle }
        }
        return low
    }

    public func commit(_ runs: [MirrorRun]) throws(HMMError) {
        for run in runs {
            guard !run.isAtomic || (run.order == 0 && run.isWritable) else {
                throw HMMError(.invalidArgument, "atomic mappings are writable and of 4 KiB")
            }
        }
        gate.enter()
        defer { gate.leave() }
        var update = MirrorUpdate()
        var failure: HMMError?
        for run in runs where failure == nil {
            if let mayAllocate, !mayAllocate() {
                failure = HMMError(.outOfMemory, "no memory for entries of the mirror")
                break
            }
            var position = run.pages.lowerBound
            while position < run.pages.upperBound && failure == nil {
                lock.lock()
                failure = store(run, &position, &update)
                lock.unlock()
                if update.isFull { update.flush(to: effects) }
            }
        }
        update.flush(to: effects)
        if let failure { throw failure }
    }

    /// Stores from `position` on until the end, an error or a full update.
    private func store(_ run: MirrorRun, _ position: inout PageNumber, _ update: inout MirrorUpdate) -> HMMError? {
        var index = place(of: position)
        if index == slots.count || slots[index].page >= run.pages.upperBound {
            // The common case: nothing is there.
            let rest = position..<run.pages.upperBound
            let added = rest.lazy.map { Slot(page: $0, entry: run.entry(at: $0, level: 0)) }
            slots.insert(contentsOf: added, at: index)
            position = run.pages.upperBound
            return nil
        }
        while position < run.pages.upperBound && !update.isFull {
            let new = run.entry(at: position, level: 0)
            if index == slots.count || slots[index].page != position {
                slots.insert(Slot(page: position, entry: new), at: index)
            } else if let failure = merge(new, into: index, &update) {
                return failure
            }
            index += 1
            position = position.advanced(by: 1)
        }
        return nil
    }

    private func merge(_ new: MirrorEntry, into index: Int, _ update: inout MirrorUpdate) -> HMMError? {
        let (page, old) = (slots[index].page, slots[index].entry)
        let pages = page..<page.advanced(by: 1)
        if (old.word ^ new.word) & MirrorEntry.translationMask == 0 {
            let tagged = old.word & ~MirrorEntry.atomicBit
            let rights = new.word & (MirrorEntry.writeBit | MirrorEntry.atomicBit)
            slots[index].entry = MirrorEntry(word: tagged | rights)
            if old.isAtomic && !new.isAtomic { update.noteChanged(pages) }
            return nil
        }
        if old.isDirty && old.isWritable { update.noteDirty(page, count: 1, entry: old) }
        update.noteChanged(pages)
        guard policy == .fail else {
            slots[index].entry = new
            return nil
        }
        slots.remove(at: index)
        inconsistentCommits += 1
        return HMMError(.inconsistent, "the mirror held another translation: an invalidation was missed")
    }

    public func invalidate(_ pages: PageRange, keeping mask: MirrorKeepMask, isBlockable: Bool) -> Bool {
        guard !mask.keepsEverything else { return true }
        var update = MirrorUpdate()
        var position = pages.lowerBound
        if isBlockable {
            gate.enter()
        } else if !gate.tryEnterAlone() {
            return false
        }
        while position < pages.upperBound {
            lock.lock()
            position =
                mask.keepsNothing
                ? remove(from: position, to: pages.upperBound, &update)
                : apply(mask, from: position, to: pages.upperBound, &update)
            lock.unlock()
            update.flush(to: effects)
        }
        if isBlockable { gate.leave() } else { gate.leaveAlone() }
        return true
    }

    /// Removes entries, until the update is full. Returns where to go on.
    private func remove(from first: PageNumber, to end: PageNumber, _ update: inout MirrorUpdate) -> PageNumber {
        let low = place(of: first)
        var index = low
        while index < slots.count, slots[index].page < end, !update.isFull {
            note(slots[index].entry, at: slots[index].page, &update)
            index += 1
        }
        let isDone = index == slots.count || slots[index].page >= end
        let next = isDone ? end : slots[index].page
        slots.removeSubrange(low..<index)
        return next
    }

    private func note(_ old: MirrorEntry, at page: PageNumber, _ update: inout MirrorUpdate) {
        if old.isDirty && old.isWritable { update.noteDirty(page, count: 1, entry: old) }
        update.noteChanged(page..<page.advanced(by: 1))
    }

    private func apply(
        _ mask: MirrorKeepMask, from first: PageNumber, to end: PageNumber, _ update: inout MirrorUpdate
    ) -> PageNumber {
        let low = place(of: first)
        var index = low
        var kept = low
        while index < slots.count, slots[index].page < end, !update.isFull {
            let old = slots[index].entry
            let new = mask.applied(to: old)
            if new != old { note(old, at: slots[index].page, &update) }
            if new.isValid {
                slots[kept] = Slot(page: slots[index].page, entry: new)
                kept += 1
            }
            index += 1
        }
        let isDone = index == slots.count || slots[index].page >= end
        let next = isDone ? end : slots[index].page
        slots.removeSubrange(kept..<index)
        return next
    }

    public func lookup(_ page: PageNumber) -> MirrorEntry? {
        lock.withLock {
            let index = place(of: page)
            return index < slots.count && slots[index].page == page ? slots[index].entry : nil
        }
    }

    public func markDirty(_ page: PageNumber, through translation: MirrorEntry) -> Bool {
        lock.withLock {
            guard translation.isWritable else {
                dirtyWithoutWrite += 1
                return false
            }
            let index = place(of: page)
            guard index < slots.count, slots[index].page == page else { return false }
            let entry = slots[index].entry
            guard entry.isWritable, (entry.word ^ translation.word) & MirrorEntry.translationMask == 0 else {
                return false
            }
            slots[index].entry = MirrorEntry(word: entry.word | MirrorEntry.dirtyBit)
            return true
        }
    }

    public func harvestDirty(_ pages: PageRange) {
        gate.enter()
        defer { gate.leave() }
        var update = MirrorUpdate()
        var position = pages.lowerBound
        while position < pages.upperBound {
            lock.lock()
            var index = place(of: position)
            while index < slots.count, slots[index].page < pages.upperBound, !update.isFull {
                let entry = slots[index].entry
                if entry.isDirty {
                    note(entry, at: slots[index].page, &update)
                    slots[index].entry = MirrorEntry(word: entry.word & ~MirrorEntry.dirtyBit)
                }
                index += 1
            }
            let isDone = index == slots.count || slots[index].page >= pages.upperBound
            position = isDone ? pages.upperBound : slots[index].page
            lock.unlock()
            update.flush(to: effects)
        }
    }

    public func forEachRun(in pages: PageRange, _ body: (MirrorRun) -> Void) {
        var pending: MirrorRun?
        var position = pages.lowerBound
        while let slot = firstSlot(from: position), slot.page < pages.upperBound {
            position = slot.page.advanced(by: 1)
            let run = MirrorRun(pages: slot.page..<position, entry: slot.entry, firstFrame: slot.entry.frame)
            if pending == nil || !pending!.absorb(run) {
                if let done = pending { body(done) }
                pending = run
            }
        }
        if let done = pending { body(done) }
    }

    private func firstSlot(from page: PageNumber) -> Slot? {
        lock.withLock {
            let index = place(of: page)
            return index < slots.count ? slots[index] : nil
        }
    }

    public var statistics: MirrorStatistics {
        lock.withLock {
            var result = MirrorStatistics()
            result.mappedPages = slots.count
            result.bytes = slots.capacity * MemoryLayout<Slot>.stride
            result.inconsistentCommits = inconsistentCommits
            result.dirtyWithoutWrite = dirtyWithoutWrite
            return result
        }
    }

    public func checkInvariants() -> [String] {
        lock.withLock {
            var found: [String] = []
            for (index, slot) in slots.enumerated() {
                if index > 0 && slots[index - 1].page >= slot.page {
                    found.append("INV-MT-7: \(slot.page) does not ascend")
                }
                if !slot.entry.isValid || slot.entry.level != 0 { found.append("\(slot.page): \(slot.entry)") }
                if slot.entry.isDirty && !slot.entry.isWritable { found.append("\(slot.page) is dirty without write") }
            }
            return found
        }
    }
}
