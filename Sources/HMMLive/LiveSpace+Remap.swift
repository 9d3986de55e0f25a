import CLive
import Glibc
import HMM

// mremap: what is away goes along, with its rights and its registration.

/// What mremap came to.
public enum RemapAnswer: Hashable, Sendable {
    /// The mapping begins here now.
    case moved(PageNumber)
    /// It failed, with this errno.
    case failed(Int32)
}

extension LiveSpace {
    /// mremap of `old` to `newPageCount` pages; `target` is its fifth argument, for MREMAP_FIXED and MREMAP_DONTUNMAP.
    public func remap(_ old: PageRange, newPageCount: Int, flags: Int32, to target: PageNumber? = nil) -> RemapAnswer {
        deliverInvalidations()
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        guard let mapping = LiveMapping(containing: old.lowerBound), mapping.pages.contains(old) else {
            // The kernel says what is wrong, and changes nothing.
            return move(old, newPageCount, flags, target)
        }
        joinParts(old)
        return telling(InvalidationRange(.unmap, old)) {
            guard let target, flags & Self.fixed != 0 else { return carry(old, newPageCount, flags, target) }
            let replaced = target..<target.advanced(by: newPageCount)
            return telling(InvalidationRange(.unmap, replaced)) {
                carry(old, newPageCount, flags, target, replacing: replaced)
            }
        }
    }

    /// Where only parts of a mapping are registered, the kernel has made several of it, and moves but one.
    private func joinParts(_ pages: PageRange) {
        guard adoptsPagesOnly(.handlerThread) else { return }
        var hasParts = false
        forEachKnown(pages) { part in hasParts = hasParts || part.contains { clive_registered($0.raw) >= 0 } }
        if hasParts, clive_registered(pages.lowerBound.raw) != Int32(CLIVE_ON_THREAD.rawValue) {
            try? register(pages, .handlerThread)
        }
    }

    /// MREMAP_FIXED and MREMAP_DONTUNMAP.
    private static let fixed: Int32 = 2
    private static let keepsOld: Int32 = 4

    private func move(_ old: PageRange, _ count: Int, _ flags: Int32, _ target: PageNumber?) -> RemapAnswer {
        let answer = clive_sys_mremap(
            old.start, old.lengthBytes, count * Geometry.pageSizeBytes, flags, UInt(target?.address.raw ?? 0))
        guard answer >= 0 else { return .failed(Int32(-answer)) }
        return .moved(PageNumber(containing: VirtualAddress(UInt64(answer))))
    }

    private func carry(
        _ old: PageRange, _ count: Int, _ flags: Int32, _ target: PageNumber?, replacing replaced: PageRange? = nil
    ) -> RemapAnswer {
        let mode = clive_registered(old.lowerBound.raw)
        let isProtected = mode < 0 ? [] : protectedRuns(old)
        let answer = move(old, count, flags, target)
        guard case .moved(let start) = answer else { return answer }
        if let replaced { forgetMapping(replaced) }
        let kept = min(old.pageCount, count)
        if kept < old.pageCount { forget(old.lowerBound.advanced(by: kept)..<old.upperBound) }
        guard start != old.lowerBound, mode >= 0 else { return answer }
        let new = start..<start.advanced(by: kept)
        // Nobody knows the new address yet, so nobody faults there before this is done.
        let isAdopted = clive_register(new.lowerBound.raw, UInt64(new.pageCount), clive_mode(UInt32(mode))) == 0
        precondition(isAdopted, "memory that was moved cannot be adopted again")
        _ = clive_relocate(old.lowerBound.raw, new.lowerBound.raw, kept)
        relocateCoherent(old.lowerBound..<old.lowerBound.advanced(by: kept), to: start)
        for run in isProtected {
            let distance = old.lowerBound.distance(to: run.lowerBound)
            _ = clive_write_protect(start.advanced(by: distance).raw, run.pageCount, true)
        }
        // What may lie there by now is somebody's new mapping, which nobody can have registered yet.
        if flags & Self.keepsOld == 0 { _ = clive_unregister(old.lowerBound.raw, UInt64(old.pageCount)) }
        return answer
    }

    /// Runs of pages whose first write is noticed.
    private func protectedRuns(_ pages: PageRange) -> [PageRange] {
        var runs: [PageRange] = []
        forEachKnown(pages) { part in
            guard let mapping = LiveMapping(containing: part.lowerBound) else { return }
            try? LiveLook.forEach(part, in: mapping) { page, seen throws(HMMError) in
                guard seen.isPresent, seen.isProtected else { return true }
                if let last = runs.last, last.upperBound == page {
                    runs[runs.count - 1] = last.lowerBound..<page.advanced(by: 1)
                } else {
                    runs.append(page..<page.advanced(by: 1))
                }
                return true
            }
        }
        return runs
    }

    private func relocateCoherent(_ old: PageRange, to start: PageNumber) {
        forEachKnown(old) { part in
            for page in part {
                let word = LiveWord.load(page)
                guard word.isCoherent else { continue }
                let target = start.advanced(by: old.lowerBound.distance(to: page))
                guard let to = clive_word(target.raw) else { continue }
                let bits = UInt64(CLIVE_COHERENT) | LiveWord.frameBits
                coherentPage(word.frame).pointee = target.raw
                _ = clive_change(target.raw, clive_load(to), clive_load(to) & ~bits | word.raw & bits)
                _ = clive_change(page.raw, word.raw, word.raw & ~bits)
            }
        }
    }
}
