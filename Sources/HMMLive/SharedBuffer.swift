import CLive
import Glibc
import HMM

/// An array of plain values that the process and its devices share: the same pointer is good on both sides.
///
/// Ordinary code uses `elements` as it would any buffer; a page that a device has taken comes back when it is touched.
/// A device uses `pages`, or `SoftwareDevice.run(over:)`. Faults are answered on the faulting thread: give such memory
/// to a system call only after it was touched, or make the buffer with `usedBySystemCalls`.
public final class SharedBuffer<Element: BitwiseCopyable>: @unchecked Sendable {
    // Immutable. What the elements hold is the business of those who share them, as with any pointer.
    public let elements: UnsafeMutableBufferPointer<Element>
    public let space: LiveSpace
    /// The pages that the elements lie in; the buffer has them for itself.
    public let pages: PageRange

    /// A buffer of zeros.
    ///
    /// - Parameters:
    ///   - usedBySystemCalls: faults are answered by the handler thread, which is slower, and then read(2) and the like
    ///     may have the buffer whatever devices do.
    ///   - hugePages: the kernel may use pages of 2 MiB, which move whole. The memory is taken at once then: what a
    ///     fault of it fills later is a small page.
    /// - Throws: `.invalidArgument` for less than one element, `.outOfMemory`; the errors of `LiveSpace.start`.
    public init(
        count: Int, usedBySystemCalls: Bool = false, hugePages: Bool = false
    ) throws(HMMError) {
        guard count > 0 else { throw HMMError(.invalidArgument, "a buffer of no elements") }
        let pageBytes = Geometry.pageSizeBytes
        let (size, isTooLarge) = count.multipliedReportingOverflow(by: MemoryLayout<Element>.stride)
        guard !isTooLarge, size < Geometry.endPage.address.raw else {
            throw HMMError(.outOfMemory, "no memory for a shared buffer")
        }
        space = try LiveSpace.shared
        let bytes = (size + pageBytes - 1) / pageBytes * pageBytes
        let start = try Self.map(bytes, hugePages: hugePages)
        let first = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: start))))
        pages = first..<first.advanced(by: bytes / pageBytes)
        elements = UnsafeMutableBufferPointer(
            start: start.bindMemory(to: Element.self, capacity: count), count: count)
        do throws(HMMError) {
            if hugePages { try Self.fill(pages) }
            let configured = space.configuration.defaultFaults
            let path = configured == .automatic ? LiveSpace.FaultPath.onThread : configured
            try space.adoptNew(pages, faults: usedBySystemCalls ? .handlerThread : path)
        } catch {
            munmap(start, bytes)
            throw error
        }
        if hugePages { madvise(start, bytes, MADV_DOFORK) }
        guard mprotect(start, bytes, PROT_READ | PROT_WRITE) == 0 else {
            _ = space.unmap(pages)
            throw HMMError(.outOfMemory, "no memory for a shared buffer")
        }
    }

    /// Before userfaultfd answers its faults, which it does a page at a time. That no child has it is an advice which
    /// the mappings beside it do not have, so it is joined with none of them as long as it stands.
    private static func fill(_ pages: PageRange) throws(HMMError) {
        let start = UnsafeMutableRawPointer(bitPattern: pages.start)!
        let isFilled = madvise(start, pages.lengthBytes, MADV_DONTFORK) == 0
            && mprotect(start, pages.lengthBytes, PROT_READ | PROT_WRITE) == 0
            && clive_populate(pages.lowerBound.raw, pages.pageCount, true) == 0
        guard isFilled else { throw HMMError(.outOfMemory, "no memory for a shared buffer") }
    }

    deinit { _ = space.unmap(pages) }

    /// Fresh memory, aligned to 2 MiB, without rights: with them the kernel might join it with a mapping beside it,
    /// which somebody adopts in another way before this one is.
    private static func map(_ bytes: Int, hugePages: Bool) throws(HMMError) -> UnsafeMutableRawPointer {
        let alignment = 2 << 20
        let whole = mmap(nil, bytes + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let whole, whole != MAP_FAILED else { throw HMMError(.outOfMemory, "no memory for a shared buffer") }
        let skipped = (alignment - Int(bitPattern: whole) % alignment) % alignment
        let start = whole + skipped
        if skipped > 0 { munmap(whole, skipped) }
        munmap(start + bytes, alignment - skipped)
        madvise(start, bytes, hugePages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE)
        return start
    }
}

extension SoftwareDevice {
    /// Runs a piece of code on the device, once for each page of the buffer in the order of addresses: it gets the
    /// elements of the page where the device reaches them, and the index of the first.
    ///
    /// The elements may be used until `body` returns. Their size divides 4096, so none lies in two pages.
    ///
    /// - Throws: the errors of a device fault; pages before it are done.
    public func run<Element>(
        over buffer: SharedBuffer<Element>, for access: AccessKind = .write,
        _ body: (_ elements: UnsafeMutableBufferPointer<Element>, _ first: Int) -> Void
    ) throws(HMMError) {
        try run(over: buffer, in: buffer.pages, for: access, body)
    }

    /// The same for some of the buffer's pages.
    public func run<Element>(
        over buffer: SharedBuffer<Element>, in pages: PageRange, for access: AccessKind = .write,
        _ body: (_ elements: UnsafeMutableBufferPointer<Element>, _ first: Int) -> Void
    ) throws(HMMError) {
        let stride = MemoryLayout<Element>.stride
        guard Geometry.pageSizeBytes % stride == 0 else {
            throw HMMError(.invalidArgument, "elements of a page must fill it evenly")
        }
        guard buffer.pages.contains(pages) else {
            throw HMMError(.invalidArgument, "the pages are not all of the buffer")
        }
        let perPage = Geometry.pageSizeBytes / stride
        for page in pages {
            let first = buffer.pages.lowerBound.distance(to: page) * perPage
            let count = min(perPage, buffer.elements.count - first)
            try withPage(page, for: access) { words in
                let start = UnsafeMutableRawPointer(words).assumingMemoryBound(to: Element.self)
                body(UnsafeMutableBufferPointer(start: start, count: count), first)
            }
        }
    }
}
