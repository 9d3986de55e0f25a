import Synchronization

/// What entries and page caches say about one frame. All-zero between two audits.
struct FrameTally {
    /// References that page caches hold (head only).
    var cached: UInt32
    /// Entries at PTE level that name this page.
    var entries: UInt32
    /// Entries above PTE level that name the folio (head only).
    var hugeEntries: UInt32

    var isEmpty: Bool { cached | entries | hugeEntries == 0 }
}

/// What entries and page caches say about one swap slot.
struct SlotTally {
    var entries: UInt32 = 0
    var exclusiveEntries: UInt32 = 0
}

/// The books of a machine while it is audited, in arrays indexed as the machine's own: an audit costs what is in use,
/// and allocates nothing after the first.
///
/// Used by one audit at a time, which is what `isBusy` checks.
final class MachineBooks: @unchecked Sendable {
    // Guarded by `isBusy`.
    private(set) var faults: [String] = []
    private let arena: HostMemory
    /// By frame.
    private let tallies: UnsafeMutablePointer<FrameTally>
    /// By swap slot, as far as slots were ever used.
    private var slots: ContiguousArray<SlotTally> = []
    /// Entries and references that were entered, and those that a frame or slot in use was found for.
    @exclusivity(unchecked) private var entered = 0
    @exclusivity(unchecked) private var met = 0
    @exclusivity(unchecked) private(set) var isQuiet = true
    private let isBusy = Atomic<Bool>(false)
    private static let faultLimit = 20

    init(frameLimit: Int) throws(HMMError) {
        arena = try HostMemory(lengthBytes: frameLimit * MemoryLayout<FrameTally>.stride)
        tallies = arena.elements(of: FrameTally.self)
    }

    func fault(_ text: @autoclosure () -> String) {
        if faults.count < Self.faultLimit { faults.append(text()) }
    }

    /// Runs one audit. Answers what it found.
    ///
    /// `isQuiet`: no operation is under way. If one is, but nobody holds a lock, pages may have references that no
    /// entry explains, and what was promised or handed out may not have arrived.
    func audit(_ machine: Machine, isQuiet: Bool) -> [String] {
        let wasBusy = isBusy.exchange(true, ordering: .acquiring)
        precondition(!wasBusy, "a machine is audited twice at a time")
        defer { isBusy.store(false, ordering: .releasing) }
        let slotCount = machine.swap.touchedSlots
        if slots.count < slotCount { slots.append(contentsOf: repeatElement(.init(), count: slotCount - slots.count)) }
        self.isQuiet = isQuiet
        machine.forEachAddressSpace { $0.audit(self) }
        for file in machine.files.all { file.audit(self) }
        auditFrames(machine)
        auditSwap(machine)
        auditHugetlb(machine)
        if met != entered { forgetStrays() }
        entered = 0
        met = 0
        defer { faults.removeAll() }
        return faults
    }

    /// Something was named that is not there. The arrays are made empty again for the next audit.
    private func forgetStrays() {
        fault("INV-AS-1: \(entered - met) entries name frames or slots that nobody was given")
        arena.discard(offset: 0, lengthBytes: arena.lengthBytes)
        slots.removeAll()
    }

    // MARK: Entering

    /// An entry names `frame`, of the folio with this head.
    @inline(__always)
    func enter(_ frame: FrameNumber, head: FrameNumber, isHuge: Bool) {
        entered += 1
        if isHuge { tallies[Int(head.raw)].hugeEntries += 1 } else { tallies[Int(frame.raw)].entries += 1 }
    }

    /// A page cache has a page of the folio with this head.
    func enterCached(head: FrameNumber) {
        entered += 1
        tallies[Int(head.raw)].cached += 1
    }

    /// An entry, or a page cache, names the slot.
    func enter(_ slot: SwapSlot, isExclusive: Bool) {
        entered += 1
        guard slot.raw < slots.count else { return }
        slots[Int(slot.raw)].entries += 1
        if isExclusive { slots[Int(slot.raw)].exclusiveEntries += 1 }
    }

    private func take(_ frame: FrameNumber) -> FrameTally {
        let tally = tallies[Int(frame.raw)]
        guard !tally.isEmpty else { return tally }
        met += Int(tally.cached + tally.entries + tally.hugeEntries)
        tallies[Int(frame.raw)] = FrameTally(cached: 0, entries: 0, hugeEntries: 0)
        return tally
    }

    // MARK: Frames

    private func auditFrames(_ machine: Machine) {
        let frames = machine.frames
        let system = frames.system
        let used = audit(system.firstFrame..<system.highWater, frames)
        if isQuiet { compare(used, system) }
        for memory in frames.deviceZones {
            var used = 0
            for chunk in memory.touchedRanges { used += audit(chunk, frames) }
            if isQuiet, used != memory.usedFrames {
                fault("INV-MG-3: \(used) device frames have references, the device says \(memory.usedFrames)")
            }
        }
    }

    private func compare(_ used: Int, _ system: FrameAllocator) {
        let counted = system.usedFrames
        if used != counted {
            fault("INV-AS-1: \(used) frames have references, the allocator says \(counted)")
        }
        if system.countFree() + counted != system.totalFrames {
            fault("INV-AS-1: free and used frames are not all frames")
        }
    }

    /// Checks the folios that begin in a range. Answers how many frames they have.
    private func audit(_ range: Range<FrameNumber>, _ frames: FrameTable) -> Int {
        var frame = range.lowerBound
        var used = 0
        while frame < range.upperBound {
            // In the middle of things only what entries name is compared: the rest is looked at when all is quiet.
            if !isQuiet, met == entered { break }
            let record = frames.record(frame)
            let counts =
                record.pointee.refCount.load(ordering: .relaxed) | record.pointee.mapCount.load(ordering: .relaxed)
            if counts == 0, tallies[Int(frame.raw)].isEmpty {
                frame = frame + 1
                continue
            }
            if frames.isUsed(frame) {
                let size = audit(folio: frame, frames)
                used += size
                frame = frame + size
                continue
            }
            let tally = take(frame)
            if !tally.isEmpty { fault("INV-AS-1: \(frame) is free and an entry names it") }
            if record.pointee.mapCount.load(ordering: .relaxed) != 0 { fault("INV-AS-1: \(frame) is free and mapped") }
            frame = frame + 1
        }
        return used
    }

    /// Checks one folio. Answers how many pages it has.
    private func audit(folio head: FrameNumber, _ frames: FrameTable) -> Int {
        let record = frames.record(head)
        let flags = record.pointee.flags.load(ordering: .relaxed)
        let size = frames.pageCount(ofHead: head)
        if flags & FrameFlags.tail != 0 { fault("INV-AS-1: \(head) is a tail and no folio leads to it") }
        if flags & FrameFlags.locked != 0 { fault("INV-MG-2: \(head) is locked") }
        let tally = take(head)
        var mappings = Int(tally.hugeEntries)
        for i in 0..<size {
            let entries = Int(i == 0 ? tally.entries : take(head + i).entries)
            audit(page: head + i, entries, hugeEntries: Int(tally.hugeEntries), frames)
            mappings += entries
        }
        if size > 1 {
            let entire = Int(record.pointee.entireMapCount.load(ordering: .relaxed))
            if entire != Int(tally.hugeEntries) {
                fault("INV-AS-1: \(head) is mapped whole \(entire) times, \(tally.hugeEntries) entries are there")
            }
        }
        if mappings != frames.mappingCount(head) {
            fault("INV-AS-1: \(head) has map count \(frames.mappingCount(head)), \(mappings) are there")
        }
        let swapCached = flags & FrameFlags.swapCache != 0 ? size : 0
        let sum = mappings + Int(tally.cached) + swapCached + Int(record.pointee.pinCount.load(ordering: .relaxed))
        let count = Int(record.pointee.refCount.load(ordering: .relaxed))
        let isWrong = isQuiet ? sum != count : sum > count
        if isWrong { fault("INV-AS-1: \(head) has \(count) references, \(sum) are explained") }
        return size
    }

    @inline(__always)
    private func audit(page: FrameNumber, _ entries: Int, hugeEntries: Int, _ frames: FrameTable) {
        let record = frames.record(page)
        let count = Int(record.pointee.mapCount.load(ordering: .relaxed))
        if count != entries { fault("INV-AS-1: \(page) has map count \(count), \(entries) entries name it") }
        let isExclusive = record.pointee.flags.load(ordering: .relaxed) & FrameFlags.anonExclusive != 0
        if isExclusive, entries + hugeEntries > 1 {
            fault("INV-AS-2: \(page) is exclusive and named \(entries + hugeEntries) times")
        }
    }

    // MARK: Swap

    private func auditSwap(_ machine: Machine) {
        var used = 0
        machine.swap.forEachUsed { slot, count, isCached in
            used += 1
            let tally = slots[Int(slot.raw)]
            slots[Int(slot.raw)] = SlotTally()
            met += Int(tally.entries)
            let expected = Int(tally.entries) + (isCached ? 1 : 0)
            let isWrong = isQuiet ? count != expected : count < expected
            if isWrong { fault("INV-AS-13: swap slot \(slot.raw) has count \(count), \(expected) are there") }
            if tally.exclusiveEntries > 0, tally.entries > 1 {
                fault("INV-AS-13: swap slot \(slot.raw) is exclusive and named more than once")
            }
        }
        if isQuiet, used != machine.swap.usedSlots { fault("INV-AS-13: used swap slots do not add up") }
    }

    // MARK: Hugetlb

    /// Pages of the pool are free or in use, and what is promised is what the reservation maps say.
    private func auditHugetlb(_ machine: Machine) {
        let frames = machine.frames
        let pool = frames.hugetlb
        guard pool.pageCount > 0 else { return }
        let counts = pool.counts
        var used = 0
        // A page that is freed will renew a promise which its place says it has already.
        var renewed = 0
        for i in 0..<pool.pageCount {
            let head = pool.firstFrame + i << Geometry.pmdOrder
            if frames.isUsed(head) {
                used += 1
                if frames.hasFlags(head, FrameFlags.restoresReserve) { renewed += 1 }
                _ = audit(folio: head, frames)
            } else if !take(head).isEmpty {
                fault("hugetlb: \(head) is free and an entry names it")
            }
        }
        guard isQuiet else { return }
        if used + counts.free + counts.lost != pool.pageCount {
            fault("hugetlb: \(used) pages are used and \(counts.free) free of \(pool.pageCount)")
        }
        let promised = promisedHugetlbPages(machine) - renewed
        if promised != counts.reserved || counts.reserved > counts.free {
            fault("hugetlb: \(counts.reserved) pages are promised, \(promised) by the maps, \(counts.free) are free")
        }
    }

    private func promisedHugetlbPages(_ machine: Machine) -> Int {
        var seen: [HugetlbReservations] = machine.files.all.compactMap(\.hugetlbReservations)
        machine.forEachAddressSpace { space in
            for vma in space.vmas.all {
                guard let own = vma.hugetlbReservations, !seen.contains(where: { $0 === own }) else { continue }
                seen.append(own)
            }
        }
        return seen.reduce(0) { $0 + $1.reservedCount }
    }
}
