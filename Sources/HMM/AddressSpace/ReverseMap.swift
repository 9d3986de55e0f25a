// From a folio to the entries that name it.
//
// Kernel: mm/rmap.c rmap_walk_anon, rmap_walk_file, folio_lock_anon_vma_read (6.12).
// Locks: the folio is locked by the caller (its identity cannot change); the reverse map is held for reading while
// `visit` runs, so no VMA appears, goes or moves its borders meanwhile, and no table that it leads to is freed.

extension [VMA] {
    /// Puts a VMA where walkers visit it: by the offset of its first page, behind those with the same one.
    ///
    /// The order is visible: who is visited is told, and a walk that unmaps ends when nothing maps the folio any more.
    /// Kernel: mm/interval_tree.c, include/linux/interval_tree_generic.h (6.12).
    mutating func insertByOffset(_ vma: VMA) {
        var index = count
        while index > 0, self[index - 1].pageOffset > vma.pageOffset { index -= 1 }
        insert(vma, at: index)
    }
}

extension Machine {
    /// Calls `visit` for each VMA that may map pages of the folio, with the pages where it would and the offset of the
    /// first of them within the folio. Stops when `visit` answers false.
    func walkReverseMap(_ head: FrameNumber, _ visit: (VMA, PageRange, _ offset: Int) -> Bool) {
        walkReverseMap(head, count: frames.pageCount(ofHead: head), visit)
    }

    /// The same for `count` pages from `head` on: the parts of a folio that was split, all locked.
    func walkReverseMap(
        _ head: FrameNumber, count pages: Int, _ visit: (VMA, PageRange, _ offset: Int) -> Bool
    ) {
        let mapping = frames.mapping(ofHead: head)
        let index = frames.index(ofHead: head)
        let count = UInt64(pages)
        if mapping.isAnonymous {
            guard let object = anonVMAs.find(mapping.id) else { return }
            object.lockRead()
            defer { object.unlockRead() }
            visitUsers(object.users, index, count, visit)
        } else if mapping.isFile {
            guard let file = files.find(mapping.id) else { return }
            file.mapLock.lockRead()
            defer { file.mapLock.unlockRead() }
            visitUsers(file.users, index, count, visit)
        }
    }

    private func visitUsers(
        _ users: [VMA], _ index: UInt64, _ count: UInt64, _ visit: (VMA, PageRange, _ offset: Int) -> Bool
    ) {
        for vma in users {
            let low = max(index, vma.pageOffset)
            let high = min(index + count, vma.pageOffset + UInt64(vma.pages.pageCount))
            guard low < high, let first = vma.page(ofIndex: low) else { continue }
            guard visit(vma, first..<first.advanced(by: Int(high - low)), Int(low - index)) else { return }
        }
    }
}
