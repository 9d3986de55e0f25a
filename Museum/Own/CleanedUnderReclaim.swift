import HMM
import HMMExplorer

extension Exhibit {
    static let cleanedUnderReclaim = Exhibit(
        "cleaned-under-reclaim",
        source: "swift-hmm AddressSpace.freeTableLazily(), found by this explorer",
        story: """
            MADV_FREE cleared the dirty bits of a page, in its entry and in its folio, with nothing but the table \
            locked. Reclaim had the folio locked, had given it a slot in swap, and was about to take its entry away: \
            it found the page clean and did not write it. The entry named a slot that had the bytes of its former \
            life, and the page came back with another page's contents. Fixed by taking the folio lock, or leaving the \
            page as it is.
            """,
        kind: .value, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        let (other, page) = (Place.base, Place.base.advanced(by: 1))
        // A slot that has had another page: its word is 1, and that of the page that comes next is 2.
        try space.advise(other..<page, .pageout)
        try cpu.store(1, at: other.address)
        let range = page..<page.advanced(by: 1)
        scene.thread("page out") { try space.advise(range, .pageout) }
        scene.thread("free") {
            switch version {
            case .asItWas: freeLazily(space, page)
            case .mended: try space.advise(range, .free)
            }
        }
        scene.join()
        let word = try cpu.load(page.address)
        if word != 2, word != 0 { scene.fail("the page has \(word), which was another page's", kind: .value) }
        scene.expectInvariants()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// AddressSpace.freeTableLazily() as it was, for one page.
private func freeLazily(_ space: AddressSpace, _ page: PageNumber) {
    let frames = space.machine.frames
    let invalidation = space.beginInvalidation(.clear, page..<page.advanced(by: 1))
    if let pte = space.tables.lockPTE(page) {
        let entry = space.tables.read(pte)
        if let leaf = entry.softLeaf, leaf.kind == .swap {
            _ = space.tables.exchange(pte, .empty)
            space.machine.swap.put(leaf.swapSlot)
        } else if entry.isPresent, frames.mappingCount(entry.frame) == 1 {
            let old = space.tables.exchange(pte, .empty)
            space.tables.set(pte, old.young(false).dirty(false))
            // Wrong: whoever has the folio locked relies on what it found there.
            frames.clearFlags(entry.frame, FrameFlags.dirty)
        }
        space.tables.unlock(pte)
    }
    space.flushTLB()
    invalidation.end()
}
