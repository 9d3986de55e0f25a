import Synchronization

/// The number of a table in the pool; 0 is none.
package struct PageTableNumber: Equatable, Sendable {
    let raw: UInt32
    init(_ raw: UInt32) { self.raw = raw }
    static let none = PageTableNumber(0)
}

/// The levels of a page table. A leaf can stand at PTE, PMD and PUD level.
package enum PageLevel: Int, Comparable, Sendable {
    case pte = 0
    case pmd = 1
    case pud = 2
    case pgd = 3

    package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    /// log2 of the pages that one entry of this level covers.
    @inline(__always) var order: Int { rawValue * 9 }
    var below: PageLevel { PageLevel(rawValue: rawValue - 1)! }
}

/// What lies beside a table: its lock, its links and its count. Alone on its cache line: neighbouring tables are often
/// those of different threads.
struct PageTableMetadata: ~Copyable {
    /// Guards the entries: what they are, not their young and dirty bits, which the hardware sets at any time.
    let lock: SpinLock
    /// A table kept for splitting a huge leaf of this PMD table, or the next free table of the pool.
    var next: UInt32
    /// Entries that are not empty. Guarded by `lock`. Atomic only because `+=` on a member of a structure counts as an
    /// access to all of it, and others try the lock meanwhile.
    /// Invariant: INV-AS-11.
    let entryCount = Atomic<Int32>(0)
    var level: UInt8
    private let padding = InlineArray<12, UInt32>(repeating: 0)

    init(level: PageLevel) {
        lock = SpinLock(level == .pte ? .pte : .pmd)
        next = 0
        self.level = UInt8(level.rawValue)
    }
}

/// The memory of all page tables of a machine: 4 KiB of words each, and metadata beside it.
///
/// Memory of the pool stays tables for the life of the machine, so a stale pointer into a freed table reads an entry
/// of some table, never garbage. Entries of a freed table are all empty.
package final class PageTablePool: @unchecked Sendable {
    private let wordArena: HostMemory
    private let metadataArena: HostMemory
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let metadata: UnsafeMutablePointer<PageTableMetadata>
    private let lock = SpinLock(.pool)
    private let capacity: UInt32
    // Guarded by `lock`.
    private var untouched: UInt32 = 1
    private var freeHead: UInt32 = 0
    private var used = 0
    private let injector: FaultInjector

    init(capacity: Int, injector: FaultInjector) throws(HMMError) {
        wordArena = try HostMemory(lengthBytes: capacity * Geometry.pageSizeBytes)
        metadataArena = try HostMemory(lengthBytes: capacity * MemoryLayout<PageTableMetadata>.stride)
        words = wordArena.elements(of: Atomic<UInt64>.self)
        metadata = metadataArena.elements(of: PageTableMetadata.self)
        self.capacity = UInt32(capacity)
        self.injector = injector
    }

    /// Tables are handed out as at the beginning. None is in use, and nobody else calls.
    func recycle() {
        lock.withLock {
            precondition(used == 0, "page tables were recycled in use")
            (untouched, freeHead) = (1, 0)
        }
    }

    /// Tables in use.
    package var usedTables: Int { lock.withLock { used } }

    /// An empty table.
    func allocate(_ level: PageLevel) -> PageTableNumber? {
        guard !injector.shouldFail(.pageTable) else { return nil }
        let number: UInt32 = lock.withLock {
            if freeHead != 0 {
                let number = freeHead
                freeHead = metadata[Int(number)].next
                used += 1
                return number
            }
            guard untouched < capacity else { return 0 }
            defer { untouched += 1 }
            used += 1
            return untouched
        }
        guard number != 0 else { return nil }
        (metadata + Int(number)).initialize(to: PageTableMetadata(level: level))
        return PageTableNumber(number)
    }

    /// Takes back a table whose entries are all empty and that no walker can reach any more.
    package func free(_ table: PageTableNumber) {
        #if HMM_INVARIANT_CHECKS
            let freed = metadata + Int(table.raw)
            precondition(freed.pointee.entryCount.load(ordering: .relaxed) == 0, "a table with entries was freed")
            precondition(!freed.pointee.lock.isLocked, "a locked table was freed")
        #endif
        lock.withLock {
            metadata[Int(table.raw)].next = freeHead
            freeHead = table.raw
            used -= 1
        }
    }

    @inline(__always)
    package func entries(_ table: PageTableNumber) -> UnsafeMutablePointer<Atomic<UInt64>> {
        words + Int(table.raw) << 9
    }

    @inline(__always)
    func metadata(_ table: PageTableNumber) -> UnsafeMutablePointer<PageTableMetadata> {
        metadata + Int(table.raw)
    }

    /// The table that an entry lies in.
    @inline(__always)
    func table(of entry: UnsafeMutablePointer<Atomic<UInt64>>) -> PageTableNumber {
        PageTableNumber(UInt32(truncatingIfNeeded: (entry - words) >> 9))
    }
}
