import HMM
import HMMExplorer

extension AddressSpace {
    /// Makes the four pages from `first` on, which have been written, one large folio that is mapped page by page, with
    /// the same contents: what is left of a huge page of which a part was unmapped. The caller runs alone.
    func makeLargeFolio(at first: PageNumber) throws {
        let frames = machine.frames
        let pages = Place.pages(4, from: first)
        guard let old = mappedFrame(first), let head = frames.allocateFolio(order: 2) else {
            throw HMMError(.outOfMemory, "nothing to make a large folio of")
        }
        for (index, page) in pages.enumerated() { frames.copy(mappedFrame(page)!, to: head + index) }
        frames.setMapping(head, frames.mapping(ofHead: old), index: frames.index(ofHead: old))
        frames.setFlags(head, FrameFlags.upToDate | FrameFlags.dirty | FrameFlags.onLRU)
        try advise(pages, .dontneed)
        guard let pte = tables.lockPTE(first) else { throw HMMError(.inconsistent) }
        for index in 0..<4 {
            frames.get(head)
            frames.addMapping(head + index)
            frames.setFlags(head + index, FrameFlags.anonExclusive)
            tables.set(pte + index, PageTableEntry.present(head + index).writable().dirty())
        }
        tables.unlock(pte)
        frames.put(head)
    }

    /// The large folio that the entry of `page` names, read under the table lock, which is dropped again; nil if the
    /// page is not part of one.
    func largeFolio(of page: PageNumber) -> FrameNumber? {
        guard let pte = tables.lockPTE(page) else { return nil }
        defer { tables.unlock(pte) }
        let entry = tables.read(pte)
        guard entry.isPresent, machine.frames.isLarge(entry.frame) else { return nil }
        return machine.frames.head(of: entry.frame)
    }
}
