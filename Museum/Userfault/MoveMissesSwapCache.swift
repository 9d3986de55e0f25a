import HMM
import HMMExplorer

// Lock order: mmap > folio > the invalidation > PTE table.

extension Exhibit {
    static let moveMissesSwapCache = Exhibit(
        "move-misses-swap-cache",
        source: "CVE-2025-38242, 0ea148a79984 mm: userfaultfd: fix race of userfaultfd_move and swap cache",
        story: """
            UFFDIO_MOVE of a page in swap looks into the swap cache first, finds nothing, and takes the table locks \
            then. In between the page is read back and swapped out again to the same slot, and somebody's reference \
            keeps its folio in the cache. The entry is what it was, and moves alone: the folio that the new place \
            finds in the cache belongs to the old place, where the reverse map looks for it. Mended: the cache is \
            looked at again under the table lock.
            """,
        kind: .invariant, strategy: .pct(2)
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        // The second page is the destination.
        try space.unmap(Place.pages(1))
        try space.map(Place.pages(2), protection: .readWrite, kind: .anonymous(huge: false))
        try cpu.store(1, at: Place.base.address)
        try space.advise(Place.pages(1), .pageout)
        let destination = Place.base.advanced(by: 1)
        scene.thread("move") {
            while try !move(Place.base, to: destination, in: space, version) {}
        }
        scene.thread("swap in and out") {
            space.lockForReading()
            let frame = try space.reference(Place.base, [])
            space.unlockForReading()
            try space.advise(Place.pages(1), .pageout)
            space.release(frame, [])
        }
        scene.join()
        let words = try [Place.base, destination].map { try cpu.load($0.address) }
        scene.check(words.contains(1), "the page was lost: \(words)")
        scene.expectInvariants()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// move_pages_pte of mm/userfaultfd.c for a page in swap: false means again. What is not in swap is not moved here.
private func move(
    _ source: PageNumber, to target: PageNumber, in space: AddressSpace, _ version: Exhibit.Version
) throws(HMMError) -> Bool {
    space.lockForReading()
    defer { space.unlockForReading() }
    let (tables, swap, frames) = (space.tables, space.machine.swap, space.machine.frames)
    guard let from = tables.entry(source, making: .pte), let to = tables.entry(target, making: .pte) else {
        throw HMMError(.outOfMemory, "no memory for a table")
    }
    schedulingPoint(.load, on: UInt(bitPattern: from))
    let seen = tables.read(from)
    guard let leaf = seen.softLeaf, leaf.kind == .swap else { return true }
    let cached = swap.cachedFrame(leaf.swapSlot)
    if let cached {
        guard frames.tryGet(cached) else { return false }
        frames.lockFolio(cached)
    }
    defer {
        if let cached {
            frames.unlockFolio(cached)
            frames.put(cached)
        }
    }
    let invalidation = space.beginInvalidation(.clear, source..<source.advanced(by: 1))
    tables.lock(from)
    // Both entries lie in one table.
    let isSame = tables.read(from) == seen && tables.read(to).isNone
    // As it was, what was not in the cache a while ago was taken not to be there now.
    let mustLookAgain = version == .mended || cached != nil
    let isDone = isSame && (!mustLookAgain || swap.cachedFrame(leaf.swapSlot) == cached)
    if isDone {
        if let cached, frames.mapping(ofHead: cached).isAnonymous {
            frames.setMapping(cached, frames.mapping(ofHead: cached), index: target.raw)
        }
        tables.set(to, tables.exchange(from, .empty))
    }
    tables.unlock(from)
    invalidation.end()
    return isDone
}
