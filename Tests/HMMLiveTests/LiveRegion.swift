import Glibc
import HMM
import HMMLive
import Synchronization

/// Readers that do not exclude each other, and a writer that excludes all.
final class ReadersWriterLock: @unchecked Sendable {
    // SAFETY: allocated once; POSIX guards what is in it.
    private let lock = UnsafeMutablePointer<pthread_rwlock_t>.allocate(capacity: 1)
    init() { pthread_rwlock_init(lock, nil) }
    deinit {
        pthread_rwlock_destroy(lock)
        lock.deallocate()
    }
    func reading<Result>(_ body: () -> Result) -> Result {
        pthread_rwlock_rdlock(lock)
        defer { pthread_rwlock_unlock(lock) }
        return body()
    }
    func writing<Result>(_ body: () -> Result) -> Result {
        pthread_rwlock_wrlock(lock)
        defer { pthread_rwlock_unlock(lock) }
        return body()
    }
}

/// Anonymous memory of this process that the actors share.
final class LiveRegion: Sendable {
    typealias Word = UnsafeMutablePointer<Atomic<UInt64>>

    enum Change: Sendable {
        case nothing
        /// Its pages are discarded: only the upper bound of what they hold is known.
        case discarded
        /// The right to write is taken away for a while; who writes holds `rights`.
        case protected
        /// Unmapped and mapped anew, or moved to another place; everybody who uses it holds `place`.
        case replaced, moved
    }

    let name: String
    let pageCount: Int
    /// Number of its first page in the ledger.
    let firstPage: Int
    let change: Change
    let rights = ReadersWriterLock()
    let place = ReadersWriterLock()
    private let base: Atomic<UInt64>

    init(
        _ name: String, pages pageCount: Int, first: Int, _ change: Change = .nothing, isHuge: Bool = false,
        faults: LiveSpace.FaultPath = .automatic, in space: LiveSpace
    ) throws {
        self.name = name
        self.pageCount = pageCount
        self.change = change
        firstPage = first
        let bytes = pageCount << 12
        let alignment = 2 << 20
        // Without rights until it is adopted: the kernel joins it with nothing that others adopt.
        let start = mmap(nil, bytes + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let start, start != MAP_FAILED else { throw HMMError(.outOfMemory, "no memory for a region") }
        let aligned = (UInt64(UInt(bitPattern: start)) + UInt64(alignment - 1)) & ~UInt64(alignment - 1)
        base = Atomic(aligned)
        madvise(pointer, bytes, isHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE)
        try space.adopt(pages, faults: faults)
        guard mprotect(pointer, bytes, PROT_READ | PROT_WRITE) == 0 else {
            throw HMMError(.outOfMemory, "no memory for a region")
        }
    }

    var pointer: UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(bitPattern: UInt(base.load(ordering: .acquiring)))!
    }
    func page(_ i: Int) -> PageNumber { PageNumber(base.load(ordering: .acquiring) >> 12).advanced(by: i) }
    var pages: PageRange { page(0)..<page(pageCount) }
    func address(_ i: Int, _ word: Int) -> VirtualAddress {
        VirtualAddress(base.load(ordering: .acquiring) + UInt64(i << 12 + word << 3))
    }
    func word(_ i: Int, _ word: Int) -> Word {
        (pointer + (i << 12 + word << 3)).assumingMemoryBound(to: Atomic<UInt64>.self)
    }
    func moved(to page: PageNumber) { base.store(page.address.raw, ordering: .releasing) }

    /// What it holds may vanish.
    var isVolatile: Bool { change == .discarded || change == .replaced }

    /// A random part of it.
    func part(_ random: inout LiveRandom) -> PageRange {
        let table = Geometry.entriesPerTable
        if pageCount >= table, random.below(4) == 0 {
            let low = random.below(pageCount / table) * table
            return page(low)..<page(low + table)
        }
        let low = random.below(pageCount)
        let count = 1 + random.below(min(pageCount - low, 1 + random.below(pageCount)))
        return page(low)..<page(low + count)
    }

    /// While `body` runs, the region is where it is, and writable if that is wanted.
    func using<Result>(forWriting isWriting: Bool, _ body: () -> Result) -> Result {
        switch change {
        case .nothing, .discarded: body()
        case .protected: isWriting ? rights.reading(body) : body()
        case .replaced, .moved: place.reading(body)
        }
    }
}
