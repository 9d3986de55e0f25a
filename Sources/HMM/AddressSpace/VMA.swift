import Synchronization

/// The properties of a mapping that decide what may merge with what.
struct VMAFlags: OptionSet, Hashable, Sendable {
    let rawValue: UInt32
    static let read = VMAFlags(rawValue: 1 << 0)
    static let write = VMAFlags(rawValue: 1 << 1)
    static let execute = VMAFlags(rawValue: 1 << 2)
    static let shared = VMAFlags(rawValue: 1 << 3)
    /// Huge pages wanted, or refused (MADV_HUGEPAGE, MADV_NOHUGEPAGE).
    static let hugePage = VMAFlags(rawValue: 1 << 4)
    static let noHugePage = VMAFlags(rawValue: 1 << 5)
    static let hugetlb = VMAFlags(rawValue: 1 << 6)
    /// Pages are charged against commit: set once a private mapping was writable. It outlives the right to write,
    /// which is why a mapping that was made read-only again may not merge with one that always was.
    static let account = VMAFlags(rawValue: 1 << 7)
    /// Tracked by userfaultfd write protection.
    static let uffdWP = VMAFlags(rawValue: 1 << 8)
    static let locked = VMAFlags(rawValue: 1 << 9)
    /// Maps things that are not memory (IO, PFNMAP): walkers pass over it.
    static let special = VMAFlags(rawValue: 1 << 10)
    /// The file behind a shared mapping may be written.
    static let mayWrite = VMAFlags(rawValue: 1 << 11)

    static let access: VMAFlags = [.read, .write, .execute]

    init(rawValue: UInt32) { self.rawValue = rawValue }
    init(_ protection: Protection) {
        var flags = VMAFlags()
        if protection.contains(.read) { flags.insert(.read) }
        if protection.contains(.write) { flags.insert(.write) }
        if protection.contains(.execute) { flags.insert(.execute) }
        self = flags
    }
    var protection: Protection {
        var protection = Protection()
        if contains(.read) { protection.insert(.read) }
        if contains(.write) { protection.insert(.write) }
        if contains(.execute) { protection.insert(.execute) }
        return protection
    }
}

/// A mapping: a range of pages with one set of properties.
///
/// Locks: all properties change with the mmap lock held for writing *and* the VMA marked (`AddressSpace.markWrite`),
/// so holding either the mmap lock or `lock` for reading keeps them. `pages` and `pageOffset` change in addition with
/// the reverse map locked that leads here, so that its walkers see a consistent pair.
final class VMA: @unchecked Sendable {
    unowned let space: AddressSpace
    var pages: PageRange
    var flags: VMAFlags
    /// The file, nil for anonymous memory. Shared anonymous memory is a file without a name.
    let file: FileMapping?
    /// Offset of the first page in the file; for anonymous memory the page number at which it was first mapped.
    var pageOffset: UInt64

    /// The reverse map of new anonymous pages; nil until the first. Set with the mmap lock held for writing, or once
    /// under `anonVMAPublication` with it held for reading; read without a lock. Released after `chain`, which keeps
    /// the object alive: who sees it sees the chain too.
    var anonVMA: AnonVMA? {
        get {
            UnsafeRawPointer(bitPattern: anonVMAPointer.load(ordering: .acquiring))
                .map { Unmanaged<AnonVMA>.fromOpaque($0).takeUnretainedValue() }
        }
        set {
            let pointer = newValue.map { UInt(bitPattern: Unmanaged.passUnretained($0).toOpaque()) }
            anonVMAPointer.store(pointer ?? 0, ordering: .releasing)
        }
    }
    private let anonVMAPointer = Atomic<UInt>(0)
    /// All reverse maps that this VMA is linked to, oldest first.
    var chain: [AnonVMA] = []
    let anonVMAPublication = SpinLock(.leaf)

    /// Held for reading by faults that do without the mmap lock.
    let lock = RWLock(.vma)
    /// Equals `AddressSpace.lockSequence` while a writer has marked this VMA.
    let lockSequence = Atomic<UInt64>(0)
    /// Left the set of VMAs; set while the VMA is marked, so that a CPU that remembers it finds out.
    let isDetached = Atomic<Bool>(false)

    /// What the hugetlb pool has promised to a private mapping; nil in a child of fork. Set before the VMA is known.
    var hugetlbReservations: HugetlbReservations?
    /// A page was taken away for the owner of the reservation: what is missing cannot be had any more. Set with the
    /// file's map locked.
    let hasLostHugetlbPage = Atomic<Bool>(false)
    /// Keeps faults and the removal of mappings apart where promises of the hugetlb pool change hands: for reading in a
    /// fault, for writing in a removal.
    let hugetlbLock = RWLock(.hugetlbVMA)

    init(space: AddressSpace, pages: PageRange, flags: VMAFlags, file: FileMapping?, pageOffset: UInt64) {
        self.space = space
        self.pages = pages
        self.flags = flags
        self.file = file
        self.pageOffset = pageOffset
    }

    var isAnonymous: Bool { file == nil }
    var isShared: Bool { flags.contains(.shared) }
    var isHugetlb: Bool { flags.contains(.hugetlb) }
    var isReadable: Bool { flags.contains(.read) }
    var isWritable: Bool { flags.contains(.write) }
    /// Whether a write makes a private copy of what is mapped.
    var isCopyOnWrite: Bool { !isShared }

    /// The page's offset in the file, or its number at the first mapping.
    @inline(__always)
    func index(of page: PageNumber) -> UInt64 {
        pageOffset &+ (page.raw &- pages.lowerBound.raw)
    }

    /// Where the VMA maps the offset, or nil when it does not.
    func page(ofIndex index: UInt64) -> PageNumber? {
        guard index >= pageOffset else { return nil }
        let page = PageNumber(pages.lowerBound.raw &+ (index - pageOffset))
        return page < pages.upperBound ? page : nil
    }

    /// Links this VMA into the reverse map of its file.
    func linkFile() { file?.insert(self) }
    func unlinkFile() { file?.remove(self) }

    /// The aligned 2 MiB around `page`, if it lies wholly inside.
    func hugeWindow(around page: PageNumber) -> PageRange? {
        let start = page.alignedDown(order: Geometry.pmdOrder)
        let window = start..<start.advanced(by: 1 << Geometry.pmdOrder)
        return pages.contains(window) ? window : nil
    }

    /// Whether aligned 2 MiB of the file lie at aligned 2 MiB of addresses.
    var isAlignedWithFile: Bool {
        PageNumber(pages.lowerBound.raw &- pageOffset).isAligned(order: Geometry.pmdOrder)
    }

    /// Whether faults may map 2 MiB at once: `madvise` mode.
    var allowsHugePages: Bool {
        isAnonymous && flags.contains(.hugePage) && !flags.contains(.noHugePage) && !flags.contains(.special)
    }
}
