import Synchronization

/// The state bits of one frame. Folio-wide bits are kept in the record of the head.
package struct FrameFlags {
    // Folio-wide.
    /// The folio lock.
    static let locked: UInt32 = 1 << 0
    /// Somebody sleeps for the folio lock.
    static let waiters: UInt32 = 1 << 1
    /// Somebody sleeps until the lock is dropped, without wanting it.
    static let watchers: UInt32 = 1 << 2
    /// Somebody who could not get the lock left the folio to be dropped from the swap cache by whoever unlocks it.
    package static let dropWanted: UInt32 = 1 << 3
    /// The bytes differ from what swap or the file holds.
    package static let dirty: UInt32 = 1 << 4
    package static let upToDate: UInt32 = 1 << 5
    /// On the list that reclaim looks at; cleared while isolated. Never set for device memory.
    package static let onLRU: UInt32 = 1 << 6
    package static let swapCache: UInt32 = 1 << 7
    static let referenced: UInt32 = 1 << 8
    /// MADV_FREE: clean pages may be dropped instead of swapped.
    static let lazyFree: UInt32 = 1 << 9
    /// Some page of the folio has failed.
    static let hasPoison: UInt32 = 1 << 10
    /// A page of the hugetlb pool.
    static let hugetlb: UInt32 = 1 << 11
    /// Freed, the page is promised again to where it came from.
    static let restoresReserve: UInt32 = 1 << 13
    /// A page of the page cache that was cut off its file.
    static let truncated: UInt32 = 1 << 12
    /// Some page of the folio was mapped nowhere while others were, and may be mapped again. Kept for Linux 6.12, where
    /// page-out splits such a folio.
    static let wasPartlyMapped: UInt32 = 1 << 14
    // Of the single page.
    /// Exactly one entry of one address space names this anonymous page.
    package static let anonExclusive: UInt32 = 1 << 16
    static let poisoned: UInt32 = 1 << 17
    // Of the frame.
    static let tail: UInt32 = 1 << 24
    /// Managed by the allocator's free lists.
    static let free: UInt32 = 1 << 25

    /// What the pages of a split folio take over from it.
    static let inheritedBySplit = dirty | upToDate | onLRU | swapCache | referenced | lazyFree
}

/// What a frame belongs to: an anonymous reverse map or a file. One word, so that it is read whole.
///
/// Objects are named by number, not by reference: no reference counting in page loops, and a number that outlives
/// its object is found out (`AnonVMATable`, `FileTable`).
package struct FrameMapping: Equatable {
    let raw: UInt64

    package static let none = FrameMapping(raw: 0)
    static func anonymous(_ id: UInt32) -> FrameMapping { FrameMapping(raw: UInt64(id) << 2 | 1) }
    static func file(_ id: UInt32) -> FrameMapping { FrameMapping(raw: UInt64(id) << 2 | 2) }

    package var isAnonymous: Bool { raw & 3 == 1 }
    var isFile: Bool { raw & 3 == 2 }
    /// The number of the anonymous reverse map or of the file.
    var id: UInt32 { UInt32(truncatingIfNeeded: raw >> 2) }
}

/// The record of one frame: 64 bytes, one cache line, in a flat array indexed by frame number.
///
/// All-zero is the state of a frame that was never used.
package struct FrameRecord: ~Copyable {
    /// `FrameFlags`.
    let flags: Atomic<UInt32>
    /// References of the folio (head only); 0 is free.
    /// Invariant: INV-AS-1 at a quiescent point it equals the sum that spec 01 §10 lists.
    let refCount: Atomic<Int32>
    /// PTE-level mappings of this page.
    let mapCount: Atomic<Int32>
    /// PMD-level mappings of the folio (head only).
    let entireMapCount: Atomic<Int32>
    /// Mappings of any kind of the whole folio (head only).
    /// Invariant: entireMapCount + sum of mapCount over the pages.
    let totalMapCount: Atomic<Int32>
    /// Pins of the folio (head only); each is a reference too.
    let pinCount: Atomic<Int32>
    /// `FrameMapping` (head only). Written with the folio locked, or before the folio is known to others.
    let mapping: Atomic<UInt64>
    /// Page offset within the mapping (head only); same rule.
    let index: Atomic<UInt64>
    /// Order of the folio (head), distance to the head (tail). Written before the folio is known, or with it frozen.
    let geometry: Atomic<UInt32>
    /// Slot number of this page in the swap cache, or 0. Guarded by the folio lock.
    let swapSlot: Atomic<UInt32>
    /// Links of the free lists. Guarded by the zone's lock.
    var next: UInt32
    var previous: UInt32
    /// Order of the free block that starts here. Guarded by the zone's lock.
    var freeOrder: UInt8
    /// Counts the lives of the frame: a number kept beside a frame number tells whether it was freed meanwhile.
    let generation: Atomic<UInt32>
}

extension FrameRecord {
    /// Makes records those of frames that were never used. Nobody else looks at them.
    @inline(__always)
    static func clear(_ records: UnsafeMutablePointer<FrameRecord>, count: Int = 1) {
        let words = count * MemoryLayout<FrameRecord>.stride / MemoryLayout<UInt64>.stride
        // SAFETY: all-zero is a valid record.
        UnsafeMutableRawPointer(records).initializeMemory(as: UInt64.self, repeating: 0, count: words)
    }
}
