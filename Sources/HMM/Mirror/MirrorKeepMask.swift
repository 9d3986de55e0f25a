/// What an invalidation leaves of the entries in its range: `new = old & mask`.
public struct MirrorKeepMask: Hashable, Sendable {
    /// Bits that survive.
    let mask: UInt64
    /// The range itself goes away: directories inside are freed at once.
    let prunes: Bool

    private init(mask: UInt64, prunes: Bool = false) {
        self.mask = mask
        self.prunes = prunes
    }

    /// Nothing survives.
    public static let nothing = MirrorKeepMask(mask: 0)
    /// Nothing survives, and nothing will come back.
    public static let nothingAndPrune = MirrorKeepMask(mask: 0, prunes: true)
    /// The device may go on reading.
    public static let exceptWrite = MirrorKeepMask(mask: ~MirrorEntry.writeBit)
    /// The mirror is not concerned.
    public static let everything = MirrorKeepMask(mask: ~0)

    var keepsEverything: Bool { mask == ~0 }
    var keepsNothing: Bool { mask == 0 }

    /// What is left of an entry.
    ///
    /// An atomic mapping that loses the right to write is worth nothing, so it goes as a whole. Dirty without the right
    /// to write must not remain: it was harvested in the exchange that made this change.
    func applied(to entry: MirrorEntry) -> MirrorEntry {
        var word = entry.word & mask
        if word & MirrorEntry.writeBit == 0 {
            word &= ~MirrorEntry.dirtyBit
            if word & MirrorEntry.atomicBit != 0 { word = 0 }
        }
        return MirrorEntry(word: word & MirrorEntry.validMask == 0 ? 0 : word)
    }

    /// What a mirror keeps at an event.
    ///
    /// | event | keeps |
    /// | --- | --- |
    /// | unmap, release | nothing, and the directories go |
    /// | clear, migrate (own ones too) | nothing |
    /// | protectionPage, softDirty | everything except write |
    /// | protectionVMA | by the new rights: none → nothing, read → all but write, write → all; unknown → nothing |
    /// | exclusive, made by this mirror | everything: the frame stays the same |
    /// | exclusive, foreign or a restore | nothing |
    ///
    /// Differs from Linux: 6.12's test driver skips its own migrations, which loses writes made during the copy.
    public static func forEvent(_ invalidation: InvalidationRange, owner: NotifierOwner?) -> MirrorKeepMask {
        switch invalidation.event {
        case .unmap, .release: return .nothingAndPrune
        case .clear, .migrate: return .nothing
        case .protectionPage, .softDirty: return .exceptWrite
        case .protectionVMA:
            guard let rights = invalidation.newProtection, rights.contains(.read) else { return .nothing }
            return rights.contains(.write) ? .everything : .exceptWrite
        case .exclusive:
            return invalidation.owner != nil && invalidation.owner == owner ? .everything : .nothing
        }
    }
}
