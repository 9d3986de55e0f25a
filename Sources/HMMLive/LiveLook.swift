import CLive
import HMM

/// What the page tables of the process, and the words of its pages, say of a run of pages: one look of the kernel's for
/// all of them.
///
/// Only a look: CPUs go on meanwhile, and what they change is told to mirrors later.
struct LiveLook {
    /// At most so many pages are looked at together.
    static let limit = Geometry.entriesPerTable

    /// What is known of one page.
    struct Page {
        let word: LiveWord
        let flags: UInt8
        let isMappingWritable: Bool
        let isPrivate: Bool
        /// All pages of the mapping are huge, also where the kernel does not say so of each.
        let isHugetlb: Bool

        private func has(_ flag: Int) -> Bool { flags & UInt8(flag) != 0 }

        /// The CPU can reach the page without a fault.
        var isPresent: Bool { !word.isAway && has(CLIVE_PRESENT) }
        var isHole: Bool { !word.isAway && !has(CLIVE_PRESENT) && !has(CLIVE_SWAPPED) }
        var isZero: Bool { isPresent && has(CLIVE_ZERO) }
        var isHuge: Bool { has(CLIVE_HUGE) || (isHugetlb && isPresent) }
        /// The page of a file, or of shared memory.
        var isFile: Bool { has(CLIVE_FILE) }
        /// Writes are noticed: after a fork, or because a device reads the page.
        var isProtected: Bool { has(CLIVE_WP) }

        /// Another process has the same page.
        var isShared: Bool { isPresent && !has(CLIVE_EXCLUSIVELY_MAPPED) }

        /// The CPU can write without a fault: what is private must be its own, what is shared obeys the mapping.
        var isWritable: Bool {
            guard isPresent, isMappingWritable, !isZero, !isProtected else { return false }
            return !isPrivate || (!isFile && has(CLIVE_EXCLUSIVELY_MAPPED))
        }
    }

    /// Looks at `pages`, which lie in one mapping, and calls `body` with each until it answers false.
    static func forEach(
        _ pages: PageRange, in mapping: LiveMapping, _ body: (PageNumber, Page) throws(HMMError) -> Bool
    ) throws(HMMError) {
        precondition(pages.pageCount <= limit, "a look at too many pages")
        var failure: HMMError?
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: pages.pageCount) { flags in
            do throws(HMMError) {
                try HMMError.check(
                    clive_look(pages.lowerBound.raw, pages.pageCount, flags.baseAddress!),
                    "the page tables of the process cannot be read")
                for (index, page) in pages.enumerated() {
                    let seen = Page(
                        word: LiveWord.load(page), flags: flags[index],
                        isMappingWritable: mapping.protection.contains(.write), isPrivate: !mapping.isShared,
                        isHugetlb: mapping.isHugetlb)
                    guard try body(page, seen) else { return }
                }
            } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
