import HMM
import Synchronization

/// One huge page that a process maps in pieces of 4 KiB: an entry of the huge page's own size that leads to a table,
/// and the leaves in it. What the high-granularity series adds to hugetlb.
final class PieceMapping: Sendable {
    /// Where the map count of the huge page is kept.
    enum Counting {
        /// One for the entry of the huge page's size, from its making until its table is freed.
        case atTable
        /// One for each leaf.
        case atLeaves
    }

    private let frames: FrameTable
    private let head: FrameNumber
    private let counting: Counting
    /// The page-table lock of the table.
    private let lock = FairMutex(.pte)
    /// Guarded by `lock`, as is every leaf.
    private let hasTable = Atomic<Bool>(false)
    private let leaves = Atomic<UInt64>(0)
    /// The map count of the huge page, as far as this mapping is concerned. Kept here and not in the core, whose
    /// invariants know no mappings in pieces. Guarded by `lock`.
    private let mapCount = Atomic<Int>(0)

    init(of head: FrameNumber, in frames: FrameTable, counting: Counting) {
        (self.head, self.frames, self.counting) = (head, frames, counting)
    }

    /// Pieces that are mapped, of the first 64.
    var mappedPieces: Int { leaves.load(ordering: .relaxed).nonzeroBitCount }

    /// What the map count says.
    var countedMappings: Int { mapCount.load(ordering: .relaxed) }

    /// A fault on one piece.
    func map(_ piece: Int) {
        lock.lock()
        defer { lock.unlock() }
        if !hasTable.exchange(true, ordering: .relaxed), counting == .atTable { mapCount.add(1, ordering: .relaxed) }
        let old = leaves.bitwiseOr(1 << UInt64(piece), ordering: .relaxed).oldValue
        guard old & 1 << UInt64(piece) == 0 else { return }
        frames.get(head)
        if counting == .atLeaves { mapCount.add(1, ordering: .relaxed) }
    }

    /// Truncation takes the leaves away. The table stays: faults may be walking it, and the locks that would keep them
    /// out are not held on this path.
    func unmapPieces() {
        lock.lock()
        defer { lock.unlock() }
        let old = leaves.exchange(0, ordering: .relaxed)
        for piece in 0..<64 where old & 1 << UInt64(piece) != 0 {
            if counting == .atLeaves { mapCount.subtract(1, ordering: .relaxed) }
            frames.put(head)
        }
    }

    /// The end of the process frees the table.
    func freeTable() {
        lock.lock()
        defer { lock.unlock() }
        let hadTable = hasTable.exchange(false, ordering: .relaxed)
        if hadTable, counting == .atTable { mapCount.subtract(1, ordering: .relaxed) }
    }
}
