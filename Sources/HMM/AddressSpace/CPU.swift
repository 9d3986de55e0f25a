import Synchronization

/// Why an access of a CPU failed: the signal that a program would get.
public enum AccessFault: Error, Hashable, Sendable {
    /// SIGSEGV: nothing is mapped, or not with this right.
    case segmentationFault
    /// SIGBUS: beyond the end of a file, a poisoned page, or a page that a device failed to give back.
    case busError
    /// The kernel would kill a process to go on.
    case outOfMemory
}

/// A CPU that runs in one address space: it caches translations, marks entries young and dirty, and faults.
///
/// An access happens inside a *window*: the translation is looked up and used while it is open (`CPUWindow`).
///
/// Used by one thread at a time. It keeps its address space alive, which knows only the window: a CPU that is dropped
/// has left.
public final class CPU: @unchecked Sendable {
    public let space: AddressSpace
    private let frames: FrameTable
    /// The machine's, which outlives this: all CPUs counting references to it would be in each other's way.
    private let statistics: Unmanaged<Statistics>
    private let tables: PageTables
    let window = CPUWindow()
    /// Removed from its address space. Used by the CPU's thread only.
    var hasLeft = false
    private var flushesSeen: UInt64 = 0
    /// The anonymous mapping of the last fault; may be gone. Used by the CPU's thread only.
    var recentVMA: VMA?
    /// Direct-mapped: the page number + 1 of each slot, and its entry.
    private let cachedPages: UnsafeMutablePointer<UInt64>
    private let cachedEntries: UnsafeMutablePointer<UInt64>
    private static let slotCount = 64
    /// Rounds of faulting after which something is wrong with the model rather than with the luck of this thread.
    private static let faultLimit = 1_000_000

    init(space: AddressSpace) {
        self.space = space
        frames = space.machine.frames
        statistics = .passUnretained(space.machine.statistics)
        tables = space.tables
        cachedPages = .allocate(capacity: Self.slotCount)
        cachedPages.initialize(repeating: 0, count: Self.slotCount)
        cachedEntries = .allocate(capacity: Self.slotCount)
        cachedEntries.initialize(repeating: 0, count: Self.slotCount)
    }

    deinit {
        if !hasLeft { space.forget(window) }
        cachedPages.deallocate()
        cachedEntries.deallocate()
    }

    // MARK: Accesses

    /// Runs `body` on the 512 words of the page, with the right that `access` needs, inside one window. `body` uses
    /// atomic accesses and neither waits nor accesses memory of the address space in another way.
    public func withPage<Result>(
        _ page: PageNumber, for access: AccessKind, _ body: (UnsafeMutablePointer<Atomic<UInt64>>) -> Result
    ) throws(AccessFault) -> Result {
        // A device may hold the page for a while; whoever waits for it is not overtaken until the access has succeeded.
        var turn: ResidenceTurns.Turn?
        defer { if let turn { space.notifiers.turns.give(turn) } }
        for _ in 0..<Self.faultLimit {
            announce(page, access)
            open()
            if let frame = translate(page, access) {
                let result = body(frames.words(of: frame))
                close()
                return result
            }
            close()
            if turn == nil { turn = space.notifiers.turns.take(page..<page.advanced(by: 1)) }
            try fault(page, access)
        }
        fatalError("a CPU faulted \(Self.faultLimit) times on one page without getting it: \(page)")
    }

    /// The word at `address`, which is a multiple of 8.
    public func load(_ address: VirtualAddress) throws(AccessFault) -> UInt64 {
        let word = Self.wordIndex(address)
        return try withPage(PageNumber(containing: address), for: .read) { $0[word].load(ordering: .relaxed) }
    }

    public func store(_ value: UInt64, at address: VirtualAddress) throws(AccessFault) {
        let word = Self.wordIndex(address)
        try withPage(PageNumber(containing: address), for: .write) { $0[word].store(value, ordering: .relaxed) }
    }

    /// Adds to the word atomically. Answers the old value.
    public func fetchAdd(_ value: UInt64, at address: VirtualAddress) throws(AccessFault) -> UInt64 {
        let word = Self.wordIndex(address)
        return try withPage(PageNumber(containing: address), for: .atomic) {
            $0[word].wrappingAdd(value, ordering: .acquiringAndReleasing).oldValue
        }
    }

    private static func wordIndex(_ address: VirtualAddress) -> Int {
        precondition(address.raw & 7 == 0, "a word lies at a multiple of 8")
        return Int(address.raw & 0xfff) >> 3
    }

    private func fault(_ page: PageNumber, _ access: AccessKind) throws(AccessFault) {
        statistics._withUnsafeGuaranteedRef { $0.cpuFaults.add() }
        switch space.handleFault(of: self, at: page, write: access != .read) {
        case .done: return
        case .segmentationFault: throw .segmentationFault
        case .busError: throw .busError
        case .outOfMemory: throw .outOfMemory
        case .needsMMapLock: fatalError("a fault under the mmap lock asked for the mmap lock")
        }
    }

    /// An access is one step, and no other thread runs inside its window; so all that it will look at is announced
    /// before: the page's bytes, the flushes of this CPU, and the entries that a walk ends at.
    @inline(__always)
    private func announce(_ page: PageNumber, _ access: AccessKind) {
        page.announceAccess(access)
        if Seam.isWatching { announceWalk(page) }
    }

    @inline(never)
    private func announceWalk(_ page: PageNumber) {
        schedulingPoint(.load, on: window.flushKey)
        guard let pmd = tables.entry(page, .pmd) else { return }
        schedulingPoint(.load, on: UInt(bitPattern: pmd))
        guard let pte = tables.entry(page, .pte) else { return }
        schedulingPoint(.load, on: UInt(bitPattern: pte))
    }

    // MARK: The window

    @inline(__always)
    private func open() {
        let requests = window.open()
        if requests != flushesSeen {
            cachedPages.update(repeating: 0, count: Self.slotCount)
            flushesSeen = requests
        }
    }

    @inline(__always)
    private func close() { window.close() }

    /// The frame for an access, from the cache or by a walk that marks the entry as the hardware does. Nil: fault.
    private func translate(_ page: PageNumber, _ access: AccessKind) -> FrameNumber? {
        let slot = Int(page.raw) & (Self.slotCount - 1)
        if cachedPages[slot] == page.raw + 1 {
            let entry = PageTableEntry(raw: cachedEntries[slot])
            if access == .read || (entry.isWritable && entry.isDirty) { return entry.frame }
        }
        guard let entry = walk(page, access) else { return nil }
        cachedPages[slot] = page.raw + 1
        cachedEntries[slot] = entry.raw
        return entry.frame
    }

    /// The page-table walk of the hardware: no locks; young and dirty are set atomically. The answer names the 4 KiB
    /// frame, whatever the size of the leaf.
    private func walk(_ page: PageNumber, _ access: AccessKind) -> PageTableEntry? {
        var level = PageLevel.pud
        while true {
            guard let slot = tables.entry(page, level) else { return nil }
            let entry = tables.read(slot)
            if level > .pte, entry.isTable {
                level = level.below
                continue
            }
            guard entry.isAccessible, access == .read || entry.isWritable else { return nil }
            guard mark(slot, entry, access) else { continue }
            let offset = Int(page.raw & ((1 << UInt64(level.order)) - 1))
            let marked = access == .read ? entry : entry.dirty()
            return marked.naming(entry.frame + offset)
        }
    }

    private func mark(_ slot: EntryPointer, _ entry: PageTableEntry, _ access: AccessKind) -> Bool {
        let wanted = access == .read ? entry.young() : entry.young().dirty().softDirty()
        guard wanted != entry else { return true }
        return slot.pointee.compareExchange(
            expected: entry.raw, desired: wanted.raw, ordering: .acquiringAndReleasing
        ).exchanged
    }
}

extension PageNumber {
    /// A CPU or a device is about to read or write the page's bytes, which are one object for all of them.
    @inline(__always)
    func announceAccess(_ access: AccessKind) {
        schedulingPoint(access == .read ? .load : .update, on: UInt(raw))
    }
}
