/// The place of a lock in the one lock order (`LockOrder.swift` shows it as a tree).
///
/// Every lock of the core belongs to a class. The rank is the class's line in the tree, outermost first; a thread
/// that waits for a lock holds only locks that stand above it.
public struct LockClass: Hashable, Sendable, CustomStringConvertible {
    /// The line in the tree. Small enough for the upper byte of a lock word.
    public let rank: UInt8

    init(rank: UInt8) { self.rank = rank }

    /// A file's inode: truncation, hole punching, size.
    public static let inode = LockClass(rank: 0)
    /// An address space's mappings.
    public static let mmap = LockClass(rank: 1)
    /// One VMA: shared by faults that do without the mmap lock, exclusive for its marking by a writer.
    public static let vma = LockClass(rank: 2)
    /// A file's page cache against truncation (the kernel's invalidate_lock).
    public static let invalidate = LockClass(rank: 3)
    /// A folio's lock bit.
    public static let folio = LockClass(rank: 4)
    /// The hash of mutexes that makes hugetlb faults on one page serial.
    public static let hugetlbFault = LockClass(rank: 5)
    /// The per-VMA lock of hugetlb that keeps shared page tables alive.
    public static let hugetlbVMA = LockClass(rank: 6)
    /// A file's reverse map.
    public static let iMmap = LockClass(rank: 7)
    /// The lock bit of a hugetlb folio, which is taken inside the hugetlb locks and not outside them.
    public static let hugetlbFolio = LockClass(rank: 8)
    /// An anonymous reverse map.
    public static let anonVMA = LockClass(rank: 9)
    /// The interval notifiers of an address space: a short spin lock.
    public static let subscriptions = LockClass(rank: 10)
    /// The lock of a driver under which it decides `readRetry` and writes its mirror.
    public static let driver = LockClass(rank: 11)
    /// One directory of a mirror page table.
    public static let mirrorDirectory = LockClass(rank: 12)
    /// A page-middle-directory lock.
    public static let pmd = LockClass(rank: 13)
    /// A page-table lock.
    public static let pte = LockClass(rank: 14)
    /// Swap cache and swap slots, and the slots of a page cache. Commutes: each use is announced before.
    public static let swap = LockClass(rank: 15)
    /// The lists of reclaim.
    public static let lru = LockClass(rank: 16)
    /// The free lists of a zone. Commutes.
    public static let zone = LockClass(rank: 17)
    /// Small private locks that are held around a few instructions.
    public static let leaf = LockClass(rank: 18)
    /// Innermost: allocators, and tables whose readers and writers announce themselves. Commutes.
    public static let pool = LockClass(rank: 19)

    /// The name in the tree.
    public var name: String {
        let names: [StaticString] = [
            "inode", "mmap", "vma", "invalidate", "folio", "hugetlbFault", "hugetlbVMA", "iMmap", "hugetlbFolio",
            "anonVMA", "subscriptions", "driver", "mirrorDirectory", "pmd", "pte", "swap", "lru", "zone", "leaf",
            "pool",
        ]
        return names[Int(rank)].description
    }

    public var description: String { name }

    /// The class as one bit of a set.
    @inline(__always) var bit: UInt32 { 1 &<< UInt32(rank) }

    /// The classes that a thread may hold while it waits for a lock of this class.
    @inline(__always) var mayBeHeld: UInt32 {
        let outer = bit &- 1
        let isPageTableBranch = rank >= LockClass.pmd.rank && rank <= LockClass.lru.rank
        return isPageTableBranch ? outer & ~(LockClass.driver.bit | LockClass.mirrorDirectory.bit) : outer
    }

    /// Whether the order of two critical sections is nobody's business: the licence of an explorer to run each as a
    /// part of the step around it, so that taking and releasing the lock are no scheduling points.
    ///
    /// The sections of such a class take no locks but of classes that commute too, never wait, and reach no scheduling
    /// point. Nobody can see in which order two of them ran, but by the numbers of the frames, slots, tables and
    /// objects that they handed out; what can be seen beyond that is announced by a step of its own, before the lock is
    /// taken. Not covered: which of two threads gets the last frame or slot there is.
    public var commutes: Bool { bit & Self.commuting != 0 }

    /// The classes that commute, as bits.
    static var commuting: UInt32 { swap.bit | zone.bit | pool.bit }

    /// Whether a thread may hold one lock of this class and wait for a second at a higher address.
    @inline(__always) var allowsAscendingPair: Bool { self == .pmd || self == .pte }

    @inline(__always) public static func == (a: Self, b: Self) -> Bool { a.rank == b.rank }
}
