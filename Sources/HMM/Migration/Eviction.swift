import Synchronization

// Device memory is given up without asking for addresses: folios are found by their frames and their mappings by the
// reverse map, in all address spaces.
//
// Kernel: migrate_device_range, migrate_device_pages, migrate_device_finalize (mm/migrate_device.c, 6.12).
// Locks: folio (by trylock) > reverse map > PMD and PTE tables. No mmap lock is needed; whoever holds other folios may
// call this.

extension Machine {
    /// What came of one folio.
    enum EvictionOutcome {
        case evicted
        /// Nobody uses the frame.
        case free
        /// Somebody else has the folio locked.
        case locked
        /// It has users that no entry explains, or its device cannot copy it.
        case held
        case outOfMemory
        /// It was split: its pages are to be looked at one by one.
        case split
    }

    /// Moves the folio that contains the frame to system memory, if it can be had without waiting.
    func evict(_ frame: FrameNumber) -> EvictionOutcome {
        // A reference would make those fail who have the folio locked and count.
        guard !frames.looksLocked(frame) else { return .locked }
        guard frames.tryGet(frame) else { return .free }
        let head = frames.head(of: frame)
        guard frames.tryLockFolio(head) else {
            frames.put(head)
            return .locked
        }
        let outcome = evictLocked(head)
        frames.unlockFolio(head)
        frames.put(head)
        return outcome
    }

    /// Of a folio with our lock and reference.
    private func evictLocked(_ head: FrameNumber) -> EvictionOutcome {
        guard frames.mappingCount(head) > 0 else { return .free }
        let order = frames.order(ofHead: head)
        // The destination first: nobody waits for memory with the page out of reach.
        guard let new = frames.allocateLockedFolio(order: order) else {
            return order > 0 && splitDeviceFolio(head, order: order) ? .split : .outOfMemory
        }
        let hasMoved = move(head, to: new)
        removeMigrationEntries(from: head, to: hasMoved ? new : head)
        frames.unlockFolio(new)
        frames.put(new)
        guard hasMoved else { return .held }
        statistics.pagesToSystem.add(UInt64(1 << order))
        statistics.bytesCopied.add(UInt64(Geometry.pageSizeBytes << order))
        return .evicted
    }

    /// Takes the folio out of all page tables, copies it, and gives its identity to `new`.
    private func move(_ head: FrameNumber, to new: FrameNumber) -> Bool {
        var route = CopyRoute(self, nil)
        guard installMigrationEntries(head), frames.refCount(head) == 1,
            route.copy(head, to: new, pageCount: frames.pageCount(ofHead: head)),
            moveIdentity(head, to: new, isExclusive: { frames.refCount($0) == 1 })
        else { return false }
        frames.setFlags(new, movingFlags(head, to: new))
        return true
    }

    private func splitDeviceFolio(_ head: FrameNumber, order: Int) -> Bool {
        guard splitFolio(head) else { return false }
        frames.deviceMemory(of: head)?.didSplit(head, order: order)
        return true
    }

    // MARK: Some of a device's memory

    /// Moves pages to system memory that their device has not used for longest, until about `count` frames are free.
    /// Answers how many became free; those that others hold or that have no place to go are passed over.
    public func evictLeastRecentlyUsed(of memory: DeviceMemory, count: Int) -> Int {
        memory.giveUpLeastRecentlyUsed(count) { evictWhole($0) }
    }

    /// Evicts one folio, in pieces if need be. Answers the frames that became free.
    private func evictWhole(_ head: FrameNumber) -> Int {
        let order = orderNow(head)
        switch evict(head) {
        case .evicted: return 1 << order
        case .split: return (0..<1 << order).reduce(0) { $0 + (evict(head + $1) == .evicted ? 1 : 0) }
        case .free, .locked, .held, .outOfMemory: return 0
        }
    }

    /// The order of a folio without a reference: 0 if the frame became a part of another one since it was seen.
    private func orderNow(_ head: FrameNumber) -> Int {
        frames.head(of: head) == head ? frames.order(ofHead: head) : 0
    }

    // MARK: All of a device's memory

    /// Moves every page of the device home, of all address spaces, once over. Those that are locked, held or without a
    /// place stay. Answers how many moved.
    public func evictAll(of memory: DeviceMemory) -> Int {
        (foreign?.evictAll(of: memory) ?? 0) + evict(memory.usedFolios).moved
    }

    private struct SomeEvictions {
        /// Pages that moved.
        var moved = 0
        /// One that is left because somebody has it locked.
        var locked = FrameNumber.none
        var isOutOfMemory = false

        mutating func add(_ outcome: EvictionOutcome, _ head: FrameNumber, order: Int) {
            switch outcome {
            case .evicted: moved += 1 << order
            case .locked: locked = head
            case .outOfMemory: isOutOfMemory = true
            case .free, .held, .split: break
            }
        }
    }

    /// Evicts folios that were in use when somebody looked.
    private func evict(_ heads: [FrameNumber]) -> SomeEvictions {
        var result = SomeEvictions()
        for head in heads {
            let order = orderNow(head)
            switch evict(head) {
            case .split: for i in 0..<1 << order { result.add(evict(head + i), head + i, order: 0) }
            case let outcome: result.add(outcome, head, order: order)
            }
        }
        return result
    }

    /// Gives all memory of the device back: its frames are handed out no more, every page that is there moves to system
    /// memory, whoever's it is, and then the chunks go. Later allocations make new ones, unless the device was removed.
    ///
    /// Waits for those who hold pages, without holding any itself, and for another release of the memory; no lock is
    /// held by the caller.
    ///
    /// - Throws: `.outOfMemory` or `.busy` when pages are left after `patienceNanoseconds` without one that moved. They
    ///   stay where they are, readable as before, in chunks that hand out nothing; a later call goes on.
    ///
    /// Invariant: INV-DM-6.
    public func release(_ memory: DeviceMemory, patienceNanoseconds: UInt64 = 2_000_000_000) throws(HMMError) {
        memory.beginRelease()
        defer { memory.endRelease() }
        memory.retireChunks()
        var deadline = SyncClock.now() + patienceNanoseconds
        var pause: UInt64 = 1_000
        while let left = memory.removeRetired() {
            let abroad = foreign?.evictAll(of: memory) ?? 0
            var result = evict(left)
            result.moved += abroad
            if result.moved > 0 {
                deadline = SyncClock.now() + patienceNanoseconds
                continue
            }
            guard SyncClock.now() < deadline else {
                throw result.isOutOfMemory
                    ? HMMError(.outOfMemory, "no system memory for the pages of a device")
                    : HMMError(.busy, "pages of a device are held by others")
            }
            if result.locked != .none { frames.waitForUnlock(result.locked) }
            SyncClock.sleep(nanoseconds: pause)
            pause = min(2 * pause, 1_000_000)
        }
    }

    /// The device goes away: nothing is handed out any more, and everything moves home as with `release`.
    public func remove(_ memory: DeviceMemory, patienceNanoseconds: UInt64 = 2_000_000_000) throws(HMMError) {
        memory.kill()
        try release(memory, patienceNanoseconds: patienceNanoseconds)
    }
}
