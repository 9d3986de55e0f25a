/// One entry of a page table: a 64-bit word, always read and written whole and atomically.
///
/// ```
///  63            52 51                                12 11 10  9  8  7  6  5  4  3  2  1  0
/// ┌────────────────┬────────────────────────────────────┬────────┬──┬──┬──┬──┬──┬──┬──┬──┬──┐
/// │       0        │  frame, swap slot or table number  │  kind  │pn│lf│sp│uw│sd│di│yo│wr│pr│
/// └────────────────┴────────────────────────────────────┴────────┴──┴──┴──┴──┴──┴──┴──┴──┴──┘
///  pr present   wr writable   yo young   di dirty   sd soft-dirty   uw uffd-wp   sp special
///  lf leaf above PTE level    pn PROT_NONE    kind: what a non-present entry is (SoftLeaf.Kind)
/// ```
/// In a non-present entry `di` and `yo` are those that a migration carries, and `wr` of a swap entry is its exclusive
/// mark. The word 0 is the empty entry.
///
/// Kernel: arch pte/pmd helpers and include/linux/swapops.h (6.12); the table of kinds is in spec 01 §2.
package struct PageTableEntry: Equatable {
    package var raw: UInt64

    @inline(__always) package init(raw: UInt64) { self.raw = raw }

    package static let empty = PageTableEntry(raw: 0)

    static let presentBit: UInt64 = 1 << 0
    static let writableBit: UInt64 = 1 << 1
    static let youngBit: UInt64 = 1 << 2
    static let dirtyBit: UInt64 = 1 << 3
    static let softDirtyBit: UInt64 = 1 << 4
    static let uffdWPBit: UInt64 = 1 << 5
    static let specialBit: UInt64 = 1 << 6
    static let leafBit: UInt64 = 1 << 7
    static let protNoneBit: UInt64 = 1 << 8
    static let kindShift: UInt64 = 9
    static let payloadShift: UInt64 = 12
    static let kindMask: UInt64 = 0b111 << 9
    static let payloadMask: UInt64 = ((1 << 40) - 1) << 12
    /// The software bits that survive every change of kind.
    static let trackingMask: UInt64 = softDirtyBit | uffdWPBit

    @inline(__always) private func has(_ bit: UInt64) -> Bool { raw & bit != 0 }
    @inline(__always) private func with(_ bit: UInt64, _ on: Bool) -> PageTableEntry {
        PageTableEntry(raw: on ? raw | bit : raw & ~bit)
    }

    // MARK: Any entry

    @inline(__always) package var isNone: Bool { raw == 0 }
    /// Names a frame that a CPU could reach, were the rights there: PROT_NONE entries are present.
    @inline(__always) package var isPresent: Bool { has(Self.presentBit) }
    /// Present, and the CPU may read through it.
    @inline(__always) package var isAccessible: Bool {
        raw & (Self.presentBit | Self.protNoneBit) == Self.presentBit
    }
    @inline(__always) package var payload: UInt64 { (raw & Self.payloadMask) >> Self.payloadShift }
    /// The frame of a present entry, or of a non-present one of a kind that names a frame.
    @inline(__always) package var frame: FrameNumber { FrameNumber(truncating: payload) }

    @inline(__always) package var isSoftDirty: Bool { has(Self.softDirtyBit) }
    @inline(__always) package var isUffdWP: Bool { has(Self.uffdWPBit) }
    @inline(__always) package var trackingBits: UInt64 { raw & Self.trackingMask }

    // MARK: Present entries

    /// A present, young entry without rights beyond reading.
    @inline(__always) package static func present(_ frame: FrameNumber) -> PageTableEntry {
        PageTableEntry(raw: UInt64(frame.raw) << payloadShift | presentBit | youngBit)
    }
    /// The shared page of zeros.
    package static let zeroPage = PageTableEntry.present(FrameTable.zeroFrame).with(specialBit, true)
    static let hugeZeroPage = PageTableEntry.present(FrameTable.hugeZeroFrame).with(specialBit | leafBit, true)

    @inline(__always) package var isWritable: Bool { has(Self.writableBit) && isPresent }
    @inline(__always) package var isYoung: Bool { has(Self.youngBit) }
    @inline(__always) package var isDirty: Bool { has(Self.dirtyBit) }
    /// Has no reverse map and no counts: one of the zero pages.
    @inline(__always) package var isSpecial: Bool { has(Self.specialBit) }
    @inline(__always) package var isProtNone: Bool { has(Self.protNoneBit) && isPresent }
    @inline(__always) package var isHugeLeaf: Bool { isPresent && has(Self.leafBit) }

    @inline(__always) package func writable(_ on: Bool = true) -> PageTableEntry { with(Self.writableBit, on) }
    @inline(__always) package func dirty(_ on: Bool = true) -> PageTableEntry { with(Self.dirtyBit, on) }
    @inline(__always) package func young(_ on: Bool = true) -> PageTableEntry { with(Self.youngBit, on) }
    @inline(__always) func softDirty(_ on: Bool = true) -> PageTableEntry { with(Self.softDirtyBit, on) }
    @inline(__always) func uffdWP(_ on: Bool = true) -> PageTableEntry { with(Self.uffdWPBit, on) }
    @inline(__always) func leaf(_ on: Bool = true) -> PageTableEntry { with(Self.leafBit, on) }
    @inline(__always) func protNone(_ on: Bool = true) -> PageTableEntry { with(Self.protNoneBit, on) }
    @inline(__always) func tracking(_ bits: UInt64) -> PageTableEntry { PageTableEntry(raw: raw | bits) }
    /// The same entry for another frame.
    @inline(__always) func naming(_ frame: FrameNumber) -> PageTableEntry {
        PageTableEntry(raw: raw & ~Self.payloadMask | UInt64(frame.raw) << Self.payloadShift)
    }

    // MARK: Entries above PTE level

    @inline(__always) static func table(_ table: PageTableNumber) -> PageTableEntry {
        PageTableEntry(raw: UInt64(table.raw) << payloadShift | leafBit)
    }
    /// Points to a table of the next level. A leaf above PTE level is present or has a kind; a table has neither.
    @inline(__always) package var isTable: Bool {
        raw & (Self.presentBit | Self.kindMask | Self.leafBit) == Self.leafBit
    }
    @inline(__always) package var table: PageTableNumber { PageTableNumber(UInt32(truncatingIfNeeded: payload)) }

    // MARK: Non-present leaves

    /// What a non-present, non-empty leaf is; nil for everything else.
    @inline(__always) package var softLeaf: SoftLeaf? {
        guard raw & Self.presentBit == 0, raw & Self.kindMask != 0 else { return nil }
        return SoftLeaf(entry: self)
    }
}

/// A leaf that is neither empty nor present: it says where the page went, and what whoever meets it must do.
///
/// Kernel: swp_entry_t and its helpers in include/linux/swapops.h (6.12); later kernels say softleaf.
package struct SoftLeaf: Equatable {
    package enum Kind: UInt64 {
        case swap = 1
        /// Whoever holds the folio lock replaces it; everybody else waits.
        case migration = 2
        case devicePrivate = 3
        case deviceExclusive = 4
        case poison = 5
        case marker = 6
    }

    /// What a marker remembers where nothing is mapped.
    package enum Marker: UInt64 {
        case uffdWP = 1
        case poisoned = 2
        case guarded = 3
    }

    package let entry: PageTableEntry

    @inline(__always) init(entry: PageTableEntry) { self.entry = entry }

    @inline(__always) private init(_ kind: Kind, _ payload: UInt64, _ bits: UInt64) {
        entry = PageTableEntry(
            raw: kind.rawValue << PageTableEntry.kindShift | payload << PageTableEntry.payloadShift | bits)
    }

    @inline(__always) package var kind: Kind {
        Kind(rawValue: (entry.raw & PageTableEntry.kindMask) >> PageTableEntry.kindShift)!
    }
    @inline(__always) package var frame: FrameNumber { entry.frame }

    /// Write kind of a migration, device-private or (6.12) device-exclusive leaf.
    @inline(__always) package var isWriteKind: Bool { entry.raw & PageTableEntry.writableBit != 0 }
    /// A migration leaf that restores the page's exclusive mark; implied by the write kind of an anonymous page.
    @inline(__always) package var isReadExclusive: Bool { entry.raw & PageTableEntry.specialBit != 0 && !isWriteKind }
    /// The swap entry is the only one that names its slot.
    @inline(__always) package var isSwapExclusive: Bool { entry.raw & PageTableEntry.writableBit != 0 }
    @inline(__always) package var swapSlot: SwapSlot { SwapSlot(truncating: entry.payload) }
    @inline(__always) package var marker: Marker { Marker(rawValue: entry.payload)! }
    @inline(__always) var isHuge: Bool { entry.raw & PageTableEntry.leafBit != 0 }
    /// Whether the leaf holds a reference to the folio that it names.
    @inline(__always) var holdsReference: Bool { kind == .devicePrivate || kind == .deviceExclusive }

    static func swap(_ slot: SwapSlot, exclusive: Bool, tracking: UInt64) -> SoftLeaf {
        SoftLeaf(.swap, UInt64(slot.raw), (exclusive ? PageTableEntry.writableBit : 0) | tracking)
    }

    /// The rights that the restored entry gets.
    enum MigrationRight { case write, readExclusive, read }

    /// A migration leaf that carries young, dirty and the tracking bits of `old`. `huge` at PMD level.
    static func migration(
        _ frame: FrameNumber, _ right: MigrationRight, carrying bits: UInt64, huge: Bool = false
    ) -> SoftLeaf {
        let rightBits: UInt64 =
            switch right {
            case .write: PageTableEntry.writableBit
            case .readExclusive: PageTableEntry.specialBit
            case .read: 0
            }
        return SoftLeaf(
            .migration, UInt64(frame.raw), rightBits | bits | (huge ? PageTableEntry.leafBit : 0))
    }

    package static func devicePrivate(
        _ frame: FrameNumber, write: Bool, tracking: UInt64, huge: Bool = false
    ) -> SoftLeaf {
        SoftLeaf(
            .devicePrivate, UInt64(frame.raw),
            (write ? PageTableEntry.writableBit : 0) | tracking | (huge ? PageTableEntry.leafBit : 0))
    }

    package static func deviceExclusive(_ frame: FrameNumber, write: Bool, tracking: UInt64) -> SoftLeaf {
        SoftLeaf(.deviceExclusive, UInt64(frame.raw), (write ? PageTableEntry.writableBit : 0) | tracking)
    }

    static func poison(_ frame: FrameNumber) -> SoftLeaf { SoftLeaf(.poison, UInt64(frame.raw), 0) }
    static func marker(_ marker: Marker) -> SoftLeaf { SoftLeaf(.marker, marker.rawValue, 0) }

    // MARK: Changes of an entry in place

    /// The same leaf without the right to write, as mprotect and fork leave it.
    ///
    /// A write kind keeps that its page is exclusive when `keepsExclusive` (mprotect of an anonymous page), and loses
    /// it otherwise (fork).
    func withoutWrite(keepsExclusive: Bool) -> SoftLeaf {
        var raw = entry.raw & ~PageTableEntry.writableBit
        if kind == .migration {
            raw &= ~PageTableEntry.specialBit
            if keepsExclusive && (isWriteKind || isReadExclusive) { raw |= PageTableEntry.specialBit }
        }
        return SoftLeaf(entry: PageTableEntry(raw: raw))
    }
}
