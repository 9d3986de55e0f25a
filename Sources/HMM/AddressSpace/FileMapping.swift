import Synchronization

/// A file of tmpfs, or the memory behind a shared anonymous mapping: its pages and who maps them.
///
/// Kernel: struct address_space with struct inode, mm/shmem.c (6.12).
/// Locks: `invalidateLock` (.invalidate) is held for reading while a page is brought in and mapped, for writing while
/// a range is truncated; `mapLock` (.iMmap) guards `users`.
public final class FileMapping: @unchecked Sendable {
    /// The number by which frames name this file.
    let id: UInt32
    package let cache: PageCache
    let invalidateLock = RWLock(.invalidate)
    let mapLock = RWLock(.iMmap)
    /// VMAs that map the file, in the order in which walkers visit them.
    private(set) var users: [VMA] = []
    let machine: Machine
    /// What the hugetlb pool has promised to a file of huge pages that is shared. Set before the file is mapped.
    var hugetlbReservations: HugetlbReservations?
    /// The memory behind a shared anonymous mapping: a fault maps a large folio as a whole. Set before it is mapped.
    var isSharedAnonymous = false

    init(id: UInt32, pageCount: Int, machine: Machine) {
        self.id = id
        self.machine = machine
        cache = PageCache(pageCount: pageCount, frames: machine.frames)
    }

    /// Nobody maps the file or holds it any more: its pages go.
    deinit {
        for index in 0..<pageCount {
            switch cache.content(index) {
            case .empty: continue
            case .swap(let slot): machine.swap.put(slot)
            case .frame(let frame): machine.frames.put(frame)
            }
        }
    }

    /// Size of the file in pages: an access beyond gets SIGBUS.
    public var pageCount: Int { cache.pageCount }

    func insert(_ vma: VMA) { mapLock.withWrite { insertLocked(vma) } }
    func remove(_ vma: VMA) { mapLock.withWrite { removeLocked(vma) } }
    /// A copy by fork comes directly behind its original.
    func insert(_ copy: VMA, after original: VMA) {
        mapLock.withWrite {
            let index = users.firstIndex { $0 === original }!
            users.insert(copy, at: index + 1)
        }
    }

    /// With `mapLock` held for writing.
    func insertLocked(_ vma: VMA) { users.insertByOffset(vma) }
    /// With `mapLock` held for writing.
    func removeLocked(_ vma: VMA) { users.removeAll { $0 === vma } }

    /// The page at `index`, brought in if it is not in the cache: locked, with a reference.
    ///
    /// The page of a file that was never written is zero. Kernel: mm/shmem.c shmem_get_folio_gfp (6.12).
    func lockedPage(_ index: Int) throws(HMMError) -> FrameNumber {
        let frames = machine.frames
        while true {
            if let frame = cache.get(index) {
                frames.lockFolio(frames.head(of: frame))
                if cache.content(index) == .frame(frame) { return frame }
                frames.unlockFolio(frames.head(of: frame))
                frames.put(frame)
                continue
            }
            let old = cache.content(index)
            if case .frame = old { continue }
            guard let frame = frames.allocateLockedFolio() else {
                throw HMMError(.outOfMemory, "no memory for a page of a file")
            }
            if try fill(frame, from: old, at: index) { return frame }
        }
    }

    /// Puts a new, locked frame with the slot's contents into the cache. False when somebody else was faster.
    private func fill(_ frame: FrameNumber, from old: PageCache.Content, at index: Int) throws(HMMError) -> Bool {
        let frames = machine.frames
        if case .swap(let slot) = old {
            machine.swap.read(slot, into: frames.bytes(of: frame))
        } else {
            clearPages(frames.bytes(of: frame))
        }
        frames.setMapping(frame, .file(id), index: UInt64(index))
        frames.setFlags(frame, FrameFlags.upToDate | FrameFlags.onLRU)
        frames.get(frame)  // the reference of the cache
        guard cache.replace(index, old, with: .frame(frame)) else {
            frames.unlockFolio(frame)
            frames.put(frame, count: 2)
            return false
        }
        if case .swap(let slot) = old {
            // Without its slot the frame holds the only copy. A hole's zeros come back by themselves.
            frames.setFlags(frame, FrameFlags.dirty)
            machine.swap.put(slot)
            machine.statistics.swapIns.add()
        }
        return true
    }

    /// Takes pages out of the file, with whatever maps them. The next access finds zeros.
    ///
    /// Kernel: mm/truncate.c, mm/shmem.c shmem_undo_range (6.12). The caller holds no lock of an address space.
    func removePages(_ indices: Range<Int>) {
        invalidateLock.lockWrite()
        defer { invalidateLock.unlockWrite() }
        unmapAll(indices)
        for index in indices where index < pageCount { removePage(index, of: indices) }
        // Private mappings may have copied from a page between the two looks; the second pass leaves none mapped.
        unmapAll(indices)
    }

    private func removePage(_ index: Int, of indices: Range<Int>) {
        let frames = machine.frames
        while true {
            let content = cache.content(index)
            switch content {
            case .empty: return
            case .swap(let slot):
                if cache.replace(index, content, with: .empty) { return machine.swap.put(slot) }
            case .frame:
                guard let frame = cache.get(index) else { continue }
                let head = frames.head(of: frame)
                frames.lockFolio(head)
                if frames.isLarge(frame), cache.content(index) == content {
                    if removeLarge(head, index, frame, of: indices) { return }
                    continue
                }
                let isRemoved = cache.replace(index, content, with: .empty)
                if isRemoved { frames.leaveFile(head) }
                frames.unlockFolio(head)
                frames.put(frame, count: isRemoved ? 2 : 1)
                if isRemoved { return }
            }
        }
    }

    /// A page of a large folio, which is locked and referenced by the caller: the folio goes as a whole, or is split,
    /// and its pages are looked at again. If somebody uses it, it stays, and the page is cleared. Answers whether that
    /// is all; the lock and the reference are dropped.
    ///
    /// Kernel: mm/truncate.c truncate_inode_partial_folio (6.12).
    private func removeLarge(_ head: FrameNumber, _ index: Int, _ frame: FrameNumber, of indices: Range<Int>) -> Bool {
        let frames = machine.frames
        let first = index - (frame - head)
        let count = frames.pageCount(ofHead: head)
        if indices.contains(first), first + count <= indices.upperBound {
            for i in 0..<count {
                let isRemoved = cache.replace(first + i, .frame(head + i), with: .empty)
                precondition(isRemoved, "a page of a locked folio left its file")
            }
            frames.leaveFile(head)
            frames.unlockFolio(head)
            frames.put(head, count: Int32(count + 1))
            return true
        }
        let isSplit = machine.splitFolio(head, keeping: frame)
        if !isSplit {
            let words = frames.words(of: frame)
            for i in 0..<Geometry.wordsPerPage { words[i].store(0, ordering: .relaxed) }
        }
        frames.unlockFolio(isSplit ? frame : head)
        frames.put(frame)
        return !isSplit
    }

    private func unmapAll(_ indices: Range<Int>) {
        mapLock.lockRead()
        defer { mapLock.unlockRead() }
        for vma in users {
            let low = max(UInt64(indices.lowerBound), vma.pageOffset)
            let high = min(UInt64(indices.upperBound), vma.pageOffset + UInt64(vma.pages.pageCount))
            guard low < high, let first = vma.page(ofIndex: low) else { continue }
            vma.space.zapFilePages(vma, first..<first.advanced(by: Int(high - low)))
        }
    }
}

/// The files of a machine by number, so that frames can name them.
///
/// Locks: `lock` (.pool).
final class FileTable: @unchecked Sendable {
    private let lock = SpinLock(.pool)
    private struct Weak { weak var file: FileMapping? }
    private var files: [Weak] = [Weak()]

    /// Numbers start again. No file exists, and nobody else calls.
    func recycle() {
        lock.withLock {
            precondition(files.allSatisfy { $0.file == nil }, "files were forgotten")
            files.removeLast(files.count - 1)
        }
    }

    func make(pageCount: Int, machine: Machine) -> FileMapping {
        lock.withLock {
            let file = FileMapping(id: UInt32(files.count), pageCount: pageCount, machine: machine)
            files.append(Weak(file: file))
            return file
        }
    }

    func find(_ id: UInt32) -> FileMapping? { lock.withLock { files[Int(id)].file } }

    /// The files that exist.
    var all: [FileMapping] { lock.withLock { files.compactMap(\.file) } }
}
