import Synchronization

/// The mappings of one address space in address order.
///
/// Changed with the mmap lock held for writing; `lock` (.pool) is held in addition, because faults that do without the
/// mmap lock look a VMA up under it. Those lookups and all changes announce themselves.
final class VMASet: @unchecked Sendable {
    private let lock = SpinLock(.pool)
    private var sorted: ContiguousArray<VMA> = []
    var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    var all: ContiguousArray<VMA> { lock.withLock { sorted } }
    var isEmpty: Bool { lock.withLock { sorted.isEmpty } }

    /// Index of the first VMA that ends after `page`.
    private func index(endingAfter page: PageNumber) -> Int {
        var low = 0
        var high = sorted.count
        while low < high {
            let middle = (low + high) / 2
            if sorted[middle].pages.upperBound > page { high = middle } else { low = middle + 1 }
        }
        return low
    }

    private func vma(at page: PageNumber) -> VMA? {
        let index = index(endingAfter: page)
        guard index < sorted.count, sorted[index].pages.lowerBound <= page else { return nil }
        return sorted[index]
    }

    /// The VMA that contains the page.
    func find(_ page: PageNumber) -> VMA? { lock.withLock { vma(at: page) } }

    /// The VMA that contains the page, locked for reading, unless a writer has it: then the caller takes the mmap lock
    /// and learns why.
    func findAndLock(_ page: PageNumber, whileSequence sequence: () -> UInt64) -> VMA? {
        schedulingPoint(.load, on: address)
        guard let found = find(page), tryLock(found, page, whileSequence: sequence) else { return nil }
        return found
    }

    /// A VMA that was found before, locked for reading, if it still maps the page and no writer has it. For the one
    /// that a CPU used last, the search and its lock that all CPUs share are not needed.
    func tryLock(_ vma: VMA, _ page: PageNumber, whileSequence sequence: () -> UInt64) -> Bool {
        guard vma.lock.tryLockRead() else { return false }
        return keepsLocked(vma, page, whileSequence: sequence)
    }

    /// Unlocks the VMA again if it is marked, gone or somewhere else.
    ///
    /// A mark is set with the VMA's lock held for writing: now that we hold it, a mark is seen or comes later. A mark
    /// that is over is a sequence that moved on, and everything that was done under it is seen as well.
    @inline(__always)
    private func keepsLocked(_ vma: VMA, _ page: PageNumber, whileSequence sequence: () -> UInt64) -> Bool {
        let now = sequence()
        if vma.lockSequence.load(ordering: .acquiring) != now, !vma.isDetached.load(ordering: .acquiring),
            vma.pages.contains(page)
        {
            return true
        }
        vma.lock.unlockRead()
        return false
    }

    /// The first VMA that ends after `page`: the one that contains it, or the next one.
    func firstEnding(after page: PageNumber) -> VMA? {
        lock.withLock {
            let index = index(endingAfter: page)
            return index < sorted.count ? sorted[index] : nil
        }
    }

    func next(after vma: VMA) -> VMA? { firstEnding(after: vma.pages.upperBound) }

    func previous(before vma: VMA) -> VMA? {
        lock.withLock {
            let index = index(endingAfter: vma.pages.lowerBound)
            return index > 0 ? sorted[index - 1] : nil
        }
    }

    /// The VMAs that overlap `pages`, in order.
    func overlapping(_ pages: PageRange) -> ArraySlice<VMA> {
        lock.withLock {
            let first = index(endingAfter: pages.lowerBound)
            var last = first
            while last < sorted.count, sorted[last].pages.lowerBound < pages.upperBound { last += 1 }
            return ArraySlice(sorted[first..<last])
        }
    }

    func insert(_ vma: VMA) {
        schedulingPoint(.update, on: address)
        lock.withLock { sorted.insert(vma, at: index(endingAfter: vma.pages.lowerBound)) }
    }

    /// The VMA is marked, or nobody can have met it.
    func remove(_ vma: VMA) {
        schedulingPoint(.update, on: address)
        vma.isDetached.store(true, ordering: .releasing)
        lock.withLock { _ = sorted.remove(at: sorted.firstIndex { $0 === vma }!) }
    }

    /// Changes the borders of a VMA, which must not pass those of its neighbours.
    func adjust(_ vma: VMA, to pages: PageRange, pageOffset: UInt64) {
        schedulingPoint(.update, on: address)
        lock.withLock {
            vma.pages = pages
            vma.pageOffset = pageOffset
        }
    }
}
