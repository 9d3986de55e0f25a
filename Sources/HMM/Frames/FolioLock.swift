import Synchronization

// The folio lock: one bit of the head's flags, with a FIFO queue of sleepers.
//
// Unlocking with sleepers hands the lock over: the bit stays set and the first sleeper owns it, so nobody is overtaken.
// Two folio locks are never waited for together; the second is a trylock.
//
// Kernel: mm/filemap.c folio_lock, folio_unlock, migration_entry_wait_on_locked (6.12).

/// Drops pages that nobody uses any more from the swap cache; called by whoever unlocks a page that was left to them.
package protocol SwapCacheDropper: AnyObject {
    /// The folio was just unlocked; the caller holds a reference.
    func dropIfUnused(_ head: FrameNumber)
}

extension FrameTable {
    private static let lockedWithWaiters = FrameFlags.locked | FrameFlags.waiters

    // The record of a head stands for seven objects: its lock, the unlocking that watchers wait for, references,
    // mappings, and those of `FolioState`. Who takes or drops a reference does not mind who has the lock.
    @inline(__always)
    private func lockKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) }
    @inline(__always)
    private func watchKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) + 1 }
    /// The references of the folio.
    @inline(__always)
    func countKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) + 2 }
    /// The mappings of the folio.
    @inline(__always)
    func mappingKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) + 3 }

    /// A folio of the hugetlb pool is locked inside the locks of hugetlb, every other one outside them.
    @inline(__always)
    private func lockClass(_ head: FrameNumber) -> LockClass {
        hasFlags(head, FrameFlags.hugetlb) ? .hugetlbFolio : .folio
    }

    /// Takes the folio lock or waits for it. The caller holds a reference and no other folio lock.
    package func lockFolio(_ head: FrameNumber) {
        LockOrder.willAcquire(lockClass(head), lockKey(head))
        schedulingPoint(.acquire, on: lockKey(head))
        if !setLocked(head) { waitForLock(head) }
        LockOrder.acquired(lockClass(head), lockKey(head))
    }

    /// Takes the folio lock if nobody has it.
    package func tryLockFolio(_ head: FrameNumber) -> Bool {
        schedulingPoint(.tryAcquire, on: lockKey(head))
        guard setLocked(head) else { return false }
        LockOrder.acquired(lockClass(head), lockKey(head))
        return true
    }

    /// The first reference of a new folio, which is locked by the caller before anybody can find it: whoever looks for
    /// folios by the numbers of frames, or by an entry of a former life, takes a reference and tries the lock.
    @inline(__always)
    func publishLocked(_ head: FrameNumber) {
        schedulingPoint(.tryAcquire, on: lockKey(head))
        setFlags(head, FrameFlags.locked)
        LockOrder.acquired(lockClass(head), lockKey(head))
        announceFirst(head)
        record(head).pointee.refCount.store(1, ordering: .releasing)
    }

    /// The same for a folio of one page whose flags say nothing yet.
    @inline(__always)
    func publishLockedSingle(_ frame: FrameNumber) {
        schedulingPoint(.tryAcquire, on: lockKey(frame))
        record(frame).pointee.flags.store(FrameFlags.locked, ordering: .relaxed)
        LockOrder.acquired(lockClass(frame), lockKey(frame))
        announceFirst(frame)
        record(frame).pointee.refCount.store(1, ordering: .releasing)
    }

    package func unlockFolio(_ head: FrameNumber) {
        schedulingPoint(.release, on: lockKey(head))
        LockOrder.released(lockClass(head), lockKey(head))
        precondition(isLocked(head), "an unlocked folio was unlocked")
        let flags = unlockWord(head)
        if flags & FrameFlags.dropWanted != 0 { swapCacheDropper?.dropIfUnused(head) }
    }

    /// Whether somebody has the folio locked that the frame belongs to at this moment. For who has no reference: it may
    /// be another one when the caller comes to it.
    func looksLocked(_ frame: FrameNumber) -> Bool {
        let head = head(of: frame)
        schedulingPoint(.load, on: lockKey(head))
        return isLocked(head)
    }

    /// For who has it locked, or nobody else has; others ask `looksLocked`.
    package func isLocked(_ head: FrameNumber) -> Bool { hasFlags(head, FrameFlags.locked) }

    /// Sleeps until the lock of this folio is dropped once, or `entry` no longer holds `value`, without holding a
    /// reference to the folio: it may be freed and used anew meanwhile, which is why the caller looks at its entry
    /// again afterwards.
    func waitForUnlock(
        _ frame: FrameNumber, while entry: UnsafeMutablePointer<Atomic<UInt64>>, holds value: UInt64
    ) {
        let head = head(of: frame)
        // Whoever unlocks looks for the mark.
        schedulingPoint(.load, on: lockKey(head))
        setFlags(head, FrameFlags.watchers)
        WaitQueue.wait(on: watchKey(head)) { [self] in
            let flags = record(head).pointee.flags.load(ordering: .acquiring)
            return flags & FrameFlags.locked != 0 && flags & FrameFlags.watchers != 0
                && entry.pointee.load(ordering: .acquiring) == value
        }
    }

    /// As above, for who knows the folio by its frame: also returns when the frame came to belong to something else.
    package func waitForUnlock(_ frame: FrameNumber) {
        let head = head(of: frame)
        let mapping = withUnsafePointer(to: record(head).pointee.mapping) { UnsafeMutablePointer(mutating: $0) }
        waitForUnlock(head, while: mapping, holds: mapping.pointee.load(ordering: .acquiring))
    }

    /// Leaves the folio to whoever unlocks it, to be dropped from the swap cache. False if nobody has it locked now:
    /// two who unlock and leave it to each other must not go on so for ever.
    func leaveToUnlocker(_ head: FrameNumber) -> Bool {
        var flags = record(head).pointee.flags.load(ordering: .relaxed)
        while flags & FrameFlags.locked != 0 {
            let result = record(head).pointee.flags.compareExchange(
                expected: flags, desired: flags | FrameFlags.dropWanted, ordering: .acquiringAndReleasing)
            if result.exchanged { return true }
            flags = result.original
        }
        return false
    }

    // MARK: The word

    private func setLocked(_ head: FrameNumber) -> Bool {
        var flags = record(head).pointee.flags.load(ordering: .relaxed)
        while flags & FrameFlags.locked == 0 {
            let result = record(head).pointee.flags.compareExchange(
                expected: flags, desired: flags | FrameFlags.locked, ordering: .acquiringAndReleasing)
            if result.exchanged { return true }
            flags = result.original
        }
        return false
    }

    private func waitForLock(_ head: FrameNumber) {
        var ticket: UInt64 = 0
        while !setLocked(head) {
            setFlags(head, FrameFlags.waiters)
            let isOurs = WaitQueue.park(on: lockKey(head), tag: 0, ticket: &ticket) { [self] in
                flags(head) & FrameTable.lockedWithWaiters == FrameTable.lockedWithWaiters
            }
            // Woken means handed over.
            if isOurs { return }
        }
    }

    /// Drops the lock or hands it over. Answers the flags as they were.
    private func unlockWord(_ head: FrameNumber) -> UInt32 {
        var flags = record(head).pointee.flags.load(ordering: .relaxed)
        while flags & FrameFlags.waiters == 0 {
            let result = record(head).pointee.flags.compareExchange(
                expected: flags, desired: flags & ~(FrameFlags.locked | FrameFlags.watchers | FrameFlags.dropWanted),
                ordering: .acquiringAndReleasing)
            if result.exchanged { break }
            flags = result.original
        }
        if flags & FrameFlags.waiters != 0 { handOver(head, &flags) }
        if flags & FrameFlags.watchers != 0 { WaitQueue.wakeAll(watchKey(head)) }
        return flags
    }

    /// Gives the lock to the first sleeper, or drops it if the sleeper had only been about to sleep.
    private func handOver(_ head: FrameNumber, _ old: inout UInt32) {
        var isTaken = false
        var before: UInt32 = 0
        _ = WaitQueue.unpark(
            lockKey(head),
            admit: { _ in
                defer { isTaken = true }
                return !isTaken
            },
            commit: { [self] areMoreLeft in
                var gone = FrameFlags.watchers
                if !isTaken { gone |= FrameFlags.locked }
                if !areMoreLeft { gone |= FrameFlags.waiters }
                // The next owner has its own look at what was left to it.
                if !isTaken { gone |= FrameFlags.dropWanted }
                before = record(head).pointee.flags.bitwiseAnd(~gone, ordering: .acquiringAndReleasing).oldValue
            })
        old = isTaken ? before & ~FrameFlags.dropWanted : before
    }
}
