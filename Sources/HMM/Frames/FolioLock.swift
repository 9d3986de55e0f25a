import Synchronization

// The folio lock: one bit of the head's flags, with a FIFO queue of sleepers.
//
// Unlocking with sleepers hands the lock over: the bit `handoff` keeps everybody but the woken sleeper from taking it,
// so nobody is overtaken. Two folio locks are never waited for together; the second is a trylock.
//
// Kernel: mm/filemap.c folio_lock, folio_unlock, migration_entry_wait_on_locked (6.12).

extension FrameTable {
    private static let taken = FrameFlags.locked | FrameFlags.handoff

    @inline(__always)
    private func lockWord(_ frame: FrameNumber) -> UnsafeMutablePointer<FrameRecord> { record(frame) }
    @inline(__always)
    private func lockKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) }
    @inline(__always)
    private func watchKey(_ head: FrameNumber) -> UInt { UInt(bitPattern: record(head)) + 1 }

    /// Takes the folio lock or waits for it. The caller holds a reference and no other folio lock.
    package func lockFolio(_ head: FrameNumber) {
        LockOrder.willAcquire(.folio, lockKey(head))
        schedulingPoint(.acquire, on: lockKey(head))
        if !setLocked(head, allowing: 0) { waitForLock(head) }
        LockOrder.acquired(.folio, lockKey(head))
    }

    /// Takes the folio lock if nobody has it.
    package func tryLockFolio(_ head: FrameNumber) -> Bool {
        schedulingPoint(.acquire, on: lockKey(head))
        guard setLocked(head, allowing: 0) else { return false }
        LockOrder.acquired(.folio, lockKey(head))
        return true
    }

    package func unlockFolio(_ head: FrameNumber) {
        LockOrder.released(.folio, lockKey(head))
        let flags = record(head).pointee.flags.load(ordering: .relaxed)
        precondition(flags & FrameFlags.locked != 0, "an unlocked folio was unlocked")
        unlockWord(head)
        schedulingPoint(.release, on: lockKey(head))
    }

    package func isLocked(_ head: FrameNumber) -> Bool { hasFlags(head, FrameFlags.locked | FrameFlags.handoff) }

    /// Sleeps until the lock of this folio is dropped once, or `entry` no longer holds `value`, without holding a
    /// reference to the folio: it may be freed and used anew meanwhile, which is why the caller looks at its entry
    /// again afterwards.
    func waitForUnlock(
        _ frame: FrameNumber, while entry: UnsafeMutablePointer<Atomic<UInt64>>, holds value: UInt64
    ) {
        let head = head(of: frame)
        setFlags(head, FrameFlags.watchers)
        WaitQueue.wait(on: watchKey(head)) { [self] in
            let flags = record(head).pointee.flags.load(ordering: .acquiring)
            return flags & FrameTable.taken != 0 && flags & FrameFlags.watchers != 0
                && entry.pointee.load(ordering: .acquiring) == value
        }
    }

    // MARK: The word

    private func setLocked(_ head: FrameNumber, allowing handoff: UInt32) -> Bool {
        var flags = record(head).pointee.flags.load(ordering: .relaxed)
        while flags & FrameTable.taken & ~handoff == 0 {
            let result = record(head).pointee.flags.compareExchange(
                expected: flags, desired: (flags | FrameFlags.locked) & ~FrameFlags.handoff,
                ordering: .acquiringAndReleasing)
            if result.exchanged { return true }
            flags = result.original
        }
        return false
    }

    private func waitForLock(_ head: FrameNumber) {
        var mayTakeHandoff: UInt32 = 0
        repeat {
            setFlags(head, FrameFlags.waiters)
            var slept = false
            WaitQueue.wait(on: lockKey(head)) { [self] in
                // Evaluated before each sleep: after the first one the lock was handed to us.
                if slept { return false }
                let flags = record(head).pointee.flags.load(ordering: .acquiring)
                slept = flags & FrameTable.taken != 0 && flags & FrameFlags.waiters != 0
                return slept
            }
            if slept { mayTakeHandoff = FrameFlags.handoff }
        } while !setLocked(head, allowing: mayTakeHandoff)
    }

    private func unlockWord(_ head: FrameNumber) {
        var flags = record(head).pointee.flags.load(ordering: .relaxed)
        while true {
            let sleepers = flags & FrameFlags.waiters != 0
            var desired = flags & ~(FrameFlags.locked | FrameFlags.watchers)
            if sleepers { desired |= FrameFlags.handoff }
            let result = record(head).pointee.flags.compareExchange(
                expected: flags, desired: desired, ordering: .acquiringAndReleasing)
            if result.exchanged { break }
            flags = result.original
        }
        if flags & FrameFlags.watchers != 0 { WaitQueue.wakeAll(watchKey(head)) }
        if flags & FrameFlags.waiters != 0, !WaitQueue.wakeOne(lockKey(head)) {
            // Nobody slept after all: open the lock to everybody, and wake who queued meanwhile.
            clearFlags(head, FrameFlags.handoff | FrameFlags.waiters)
            WaitQueue.wakeAll(lockKey(head))
        }
    }
}
