import Synchronization

/// One address space: its mappings, its page table, the CPUs that run in it, and who wants to know of changes.
///
/// Kernel: struct mm_struct (6.12).
/// Locks, outermost first: `mmapLock` > (folio lock) > `VMA.lock` > reverse maps > PMD table > PTE table. Faults hold
/// a VMA's lock or the mmap lock, for reading; changes of VMAs hold the mmap lock for writing and mark the VMA.
public final class AddressSpace: @unchecked Sendable {
    public let machine: Machine
    package let tables: PageTables
    let vmas = VMASet()
    /// Who is told before translations change.
    public let notifiers: MMUNotifiers
    let mmapLock = RWLock(.mmap)
    /// Moves on each time the mmap lock is released by a writer; a VMA whose own number equals it is marked. Written
    /// with the mmap lock held for writing, read by faults under the VMA's lock.
    private let lockSequence = Atomic<UInt64>(1)
    let cpuLock = SpinLock(.leaf)
    /// The windows of the CPUs that run in this address space; not the CPUs, which keep it alive. Guarded by `cpuLock`.
    private var windows: [CPUWindow] = []
    private let cpuCount = Atomic<Int>(0)
    /// False once the last user is gone. Guarded by the mmap lock.
    private(set) var isAlive = true
    /// Told of pages that become exclusive to a device, or stop being so. Set before devices are attached.
    public weak var exclusiveObserver: (any ExclusiveObserver)?
    var frames: FrameTable { machine.frames }

    init(machine: Machine) throws(HMMError) {
        self.machine = machine
        tables = try PageTables(pool: machine.tables)
        notifiers = MMUNotifiers()
        machine.register(self)
    }

    deinit {
        if isAlive { exit() }
    }

    // MARK: The mmap lock

    package func lockForReading() { mmapLock.lockRead() }
    package func unlockForReading() { mmapLock.unlockRead() }
    package func lockForWriting() { mmapLock.lockWrite() }
    /// Releases the mmap lock, and with it all marks of VMAs.
    package func unlockForWriting() {
        schedulingPoint(.update, on: lockSequenceKey)
        lockSequence.add(1, ordering: .releasing)
        mmapLock.unlockWrite()
    }

    var lockSequenceNow: UInt64 { lockSequence.load(ordering: .acquiring) }
    var lockSequenceKey: UInt { withUnsafePointer(to: lockSequence) { UInt(bitPattern: $0) } }
    /// The sequence as a fault sees it that holds a VMA's lock only.
    private func lockSequenceOfFault() -> UInt64 {
        schedulingPoint(.load, on: lockSequenceKey)
        return lockSequence.load(ordering: .acquiring)
    }

    /// Ends the faults that run under the VMA's own lock and keeps new ones out until the mmap lock is released.
    /// The mmap lock is held for writing.
    func markWrite(_ vma: VMA) {
        let now = lockSequenceNow
        guard vma.lockSequence.load(ordering: .relaxed) != now else { return }
        vma.lock.lockWrite()
        vma.lockSequence.store(now, ordering: .releasing)
        vma.lock.unlockWrite()
    }

    /// Marks every VMA of the range: no fault of any kind runs there until the mmap lock is released.
    package func markWrite(_ pages: PageRange) {
        for vma in vmas.overlapping(pages) { markWrite(vma) }
    }

    /// The VMA of a page, its lock held for reading, for a fault that does without the mmap lock.
    func lockVMA(_ page: PageNumber, for cpu: CPU) -> VMA? {
        if let vma = cpu.recentVMA,
            vmas.tryLock(vma, page, whileSequence: lockSequenceOfFault)
        {
            return vma
        }
        let vma = vmas.findAndLock(page, whileSequence: lockSequenceOfFault)
        // A mapping of a file is not remembered: it would keep the file alive when it is gone.
        cpu.recentVMA = vma.flatMap { $0.isAnonymous ? $0 : nil }
        return vma
    }

    /// The rights of the mapping at `page`, or nil when there is none. The mmap lock is held.
    package func protection(at page: PageNumber) -> Protection? { vmas.find(page)?.flags.protection }

    // MARK: Invalidations

    /// Tells everybody that translations of `pages` are about to go. No table lock is held; an actor that may not wait
    /// passes a range that is not blockable, and must be ready for a refusal.
    package func beginInvalidation(
        _ event: InvalidationEvent, _ pages: PageRange, owner: NotifierOwner? = nil,
        newProtection: Protection? = nil
    ) -> Invalidation {
        machine.statistics.invalidations.add()
        let range = InvalidationRange(event, pages, owner: owner, newProtection: newProtection)
        // A blockable range is never refused.
        return Invalidation.begin(notifiers, range)
    }

    // MARK: CPUs

    /// A CPU that runs in this address space. It is used by one thread at a time.
    public func makeCPU() -> CPU {
        let cpu = CPU(space: self)
        cpuLock.withLock {
            windows.append(cpu.window)
            cpuCount.store(windows.count, ordering: .sequentiallyConsistent)
        }
        return cpu
    }

    /// Whether `address` names the TLB of one of the CPUs at scheduling points. Asked while all threads stand still.
    func isFlushKey(_ address: UInt) -> Bool { windows.contains { $0.flushKey == address } }

    /// The CPU leaves; its cached translations are gone.
    public func removeCPU(_ cpu: CPU) {
        cpu.recentVMA = nil
        cpu.hasLeft = true
        forget(cpu.window)
    }

    func forget(_ window: CPUWindow) {
        cpuLock.withLock {
            windows.removeAll { $0 === window }
            cpuCount.store(windows.count, ordering: .sequentiallyConsistent)
        }
    }

    /// Drops the translations that CPUs have cached. When it returns, every access through an older translation is
    /// over. Entries were changed before; table locks may be held.
    package func flushTLB() {
        guard cpuCount.load(ordering: .sequentiallyConsistent) > 0 else { return }
        let targets = cpuLock.withLock { windows }
        for window in targets { window.flush() }
        machine.statistics.tlbFlushes.add()
    }

    // MARK: The end

    /// The last user leaves: mirrors are told, everything is unmapped, all memory goes back.
    ///
    /// Kernel: mm/mmap.c exit_mmap, __mmu_notifier_release (6.12).
    public func exit() {
        guard isAlive else { return }
        notifiers.release()
        lockForWriting()
        isAlive = false
        unmapEverything()
        unlockForWriting()
        machine.unregister(self)
        machine.noteEnd(of: notifiers)
        tables.freeRoot()
    }
}
