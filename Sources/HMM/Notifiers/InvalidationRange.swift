/// Why translations of a range are invalidated.
///
/// Kernel: `enum mmu_notifier_event` (include/linux/mmu_notifier.h, 6.12).
public enum InvalidationEvent: UInt8, Sendable, CaseIterable {
    /// munmap, mremap (the old range), teardown of a VMA: the range itself goes away.
    case unmap
    /// A frame loses its mapping, the VMA stays: zap, COW, reclaim, migration by the system, split, collapse.
    case clear
    /// mprotect: rights may shrink for the whole range.
    case protectionVMA
    /// Write rights of pages are lost: fork, cleaning of shared files.
    case protectionPage
    /// Soft-dirty tracking was restarted: write rights are lost.
    case softDirty
    /// The last user of the address space is gone; no mapping may ever be made again.
    case release
    /// Pages are collected for a migration to or from a device; carries the owner of that device's memory.
    case migrate
    /// A page becomes exclusive to a device (owner: that device), or stops being so (owner: none).
    case exclusive
}

/// Who causes an invalidation, as fine as the state that a filter on it protects: one mirror of one device.
///
/// Differs from Linux: 6.12's test driver uses the device alone, and a second address space on the same device then
/// skips invalidations that it needed.
public struct NotifierOwner: Hashable, Sendable {
    public var device: UInt32
    /// 0 names the device as a whole.
    public var mirror: UInt32

    public init(device: UInt32, mirror: UInt32) {
        self.device = device
        self.mirror = mirror
    }

    /// The number of the device with this index. The last number is that of memory that is no device's.
    static func deviceNumber(ofIndex index: Int) throws(HMMError) -> UInt32 {
        guard let number = UInt32(exactly: index), number < .max else {
            throw HMMError(.invalidArgument, "the index of a device is from 0 to 4294967294")
        }
        return number
    }
}

/// One invalidation: what happens to which pages, and for whom.
public struct InvalidationRange: Sendable {
    public var event: InvalidationEvent
    public var pages: PageRange
    /// Set for `.migrate`, and for `.exclusive` when a page is being made exclusive.
    public var owner: NotifierOwner?
    /// False when the actor cannot wait: a callback may then only try its lock, and refuse.
    public var isBlockable: Bool
    /// The rights that the VMA has afterwards, for `.protectionVMA`.
    public var newProtection: Protection?

    public init(
        _ event: InvalidationEvent, _ pages: PageRange, owner: NotifierOwner? = nil, isBlockable: Bool = true,
        newProtection: Protection? = nil
    ) {
        self.event = event
        self.pages = pages
        self.owner = owner
        self.isBlockable = isBlockable
        self.newProtection = newProtection
    }
}
