import CLive
import Glibc
import HMM
import Synchronization

extension LiveSpace: MigratingAddressSpace {
    public var tellsMirrorsLate: Bool { true }

    public func lockMappingsForReading() { mmapLock.lockRead() }
    public func unlockMappingsForReading() { mmapLock.unlockRead() }
    public func lockMappingsForWriting() { mmapLock.lockWrite() }
    public func unlockMappingsForWriting() { mmapLock.unlockWrite() }
    /// Faults of CPUs cannot be kept out: but what they change no mirror can see wrongly, and it is told to mirrors
    /// only by who holds the mmap lock for writing.
    public func markMappings(_ pages: PageRange) {}

    public var frameWindow: FrameWindow {
        let segments = UnsafeRawPointer(clive_segment_bases())
            .assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
        return FrameWindow(base: machine.frames.arena.base, segments: segments)
    }

    public func mapping(endingAfter page: PageNumber) -> DeviceMapping? {
        LiveMapping(endingAfter: page)?.deviceMapping
    }

    /// The process's own page tables note what is written at its addresses, and a slot is not swapped by itself.
    public func noteDeviceWrite(_ pages: PageRange, firstFrame: FrameNumber) {}

    public func place(of frame: FrameNumber) -> FramePlace {
        guard frame.isLive else {
            guard let memory = machine.frames.deviceMemory(of: frame), memory !== exclusiveMemory else {
                return .system
            }
            return .device(owner: memory.owner, memory.kind)
        }
        let page = livePage(of: frame)
        let word = LiveWord.load(page)
        if word.isCoherent, let memory = machine.frames.deviceMemory(of: word.frame) {
            return .device(owner: memory.owner, memory.kind)
        }
        var flags: UInt8 = 0
        guard clive_look_quickly(page.raw, 1, &flags) == 0 else { return .system }
        return flags & UInt8(CLIVE_ZERO) != 0 ? .zeroPage : .system
    }

    public func generation(of frame: FrameNumber) -> UInt32 {
        frame.isLive ? 0 : machine.frames.generation(of: frame)
    }

    public func hold(_ page: PageNumber, _ frame: FrameNumber) -> Bool {
        frame.isLive || clive_hold(page.raw, frame.raw)
    }

    public func letGo(_ page: PageNumber, _ frame: FrameNumber) {
        if !frame.isLive { clive_let_go(page.raw, frame.raw) }
    }

    public func noteDeviceFault(rounds: Int, entries: Int) {
        machine.statistics.noteDeviceFault(rounds: rounds, entries: entries)
    }

    // MARK: Frames of the process

    /// The number of the frame that is the page itself. Its segment is made if it is new.
    func liveFrame(_ page: PageNumber) throws(HMMError) -> FrameNumber {
        var segment = clive_segment(page.raw)
        if segment < 0 {
            try HMMError.check(clive_make_segments(page.raw, 1), "too many parts of the address space are in use")
            segment = clive_segment(page.raw)
        }
        let offset = UInt32(page.raw & (1 << UInt64(FrameNumber.liveSegmentOrder) - 1))
        return FrameNumber(FrameNumber.liveBit | UInt32(segment) << UInt32(FrameNumber.liveSegmentOrder) | offset)
    }

    private func livePage(of frame: FrameNumber) -> PageNumber {
        let start = UnsafeRawPointer(frameWindow.words(of: frame))
        return PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: start))))
    }
}

/// A mapping of the process, as the kernel tells it.
struct LiveMapping {
    let pages: PageRange
    let protection: Protection
    let isShared: Bool
    /// Pages of it may be those of a file, which cannot move.
    let isFile: Bool
    let isHugetlb: Bool
    let isSpecial: Bool
    let isStack: Bool
    let isHeap: Bool
    /// It may be several for the kernel.
    let isJoined: Bool

    /// The mapping that contains the page or is the next behind it.
    init?(endingAfter page: PageNumber) {
        var vma = clive_vma()
        guard clive_vma_ending_after(page.raw, &vma) == 0 else { return nil }
        isJoined = Self.join(&vma)
        pages = PageNumber(vma.start_page)..<PageNumber(vma.end_page)
        protection = Protection(posix: Int32(vma.prot))
        isShared = vma.shared
        isFile = vma.file
        isHugetlb = vma.hugetlb
        isSpecial = vma.special
        isStack = vma.stack
        isHeap = vma.heap
    }

    /// Where parts of a mapping are registered, the kernel has made several of it; they are one all the same. Answers
    /// whether there may be such parts.
    private static func join(_ vma: inout clive_vma) -> Bool {
        guard !clive_answers_kernel_faults(), !vma.shared, !vma.file, !vma.hugetlb, !vma.special else { return false }
        var next = clive_vma()
        for _ in 0..<mostParts {
            let modes = (clive_registered(vma.end_page - 1), clive_registered(vma.end_page))
            let byPages = Int32(CLIVE_HANDLER_THREAD.rawValue)
            guard modes == (byPages, -1) || modes == (-1, byPages) || modes == (byPages, byPages),
                clive_vma_ending_after(vma.end_page, &next) == 0, next.start_page == vma.end_page,
                next.prot == vma.prot, next.heap == vma.heap,
                !next.shared, !next.file, !next.hugetlb, !next.special, !next.stack
            else { return true }
            vma.end_page = next.end_page
        }
        return true
    }

    /// More than a walk of one table's pages can meet.
    private static let mostParts = Geometry.entriesPerTable

    /// The mapping that contains the page.
    init?(containing page: PageNumber) {
        self.init(endingAfter: page)
        guard pages.contains(page) else { return nil }
    }

    /// What is written here is the process's own.
    var isPrivate: Bool { !isShared && !isHugetlb && !isSpecial }
    /// Its pages can move. Not those of private mappings of files: where nothing is mapped, the page cache answers a
    /// CPU before userfaultfd is asked, and it would get the page of the file.
    var isPrivateMemory: Bool { isPrivate && !isFile }

    var deviceMapping: DeviceMapping {
        DeviceMapping(pages: pages, protection: protection, isHugetlb: isHugetlb, isSpecial: isSpecial)
    }
}

extension Protection {
    /// The rights of PROT_READ, PROT_WRITE and PROT_EXEC.
    init(posix: Int32) {
        self = []
        if posix & PROT_READ != 0 { insert(.read) }
        if posix & PROT_WRITE != 0 { insert(.write) }
        if posix & PROT_EXEC != 0 { insert(.execute) }
    }
}

/// What the word of a page says: where its bytes are.
struct LiveWord {
    let raw: UInt64

    /// The word of a page, when nobody is moving it: a mover waits for nobody but the kernel.
    static func load(_ page: PageNumber) -> LiveWord {
        guard let word = clive_word(page.raw) else { return LiveWord(raw: 0) }
        while true {
            let raw = clive_load(word)
            if clive_state_of(raw) != UInt32(CLIVE_BUSY) { return LiveWord(raw: raw) }
            sched_yield()
        }
    }

    private var state: UInt32 { clive_state_of(raw) }
    /// At its address, and nothing else to be known of it.
    var isPlainlyHome: Bool { raw & Self.knowledge == UInt64(CLIVE_HOME) }
    /// The bits that name the frame; the header has them as an expression that Swift does not import.
    static var frameBits: UInt64 { 0xffff_ffff << UInt64(CLIVE_FRAME_SHIFT) }
    private static var knowledge: UInt64 { UInt64(CLIVE_STATE) | UInt64(CLIVE_COHERENT) }
    /// Somebody is moving it.
    var isBusy: Bool { state == UInt32(CLIVE_BUSY) }
    /// Its bytes are in a slot.
    var isAway: Bool { state == UInt32(CLIVE_AWAY) }
    /// A CPU took it home, and mirrors were not told yet.
    var isReturned: Bool { state == UInt32(CLIVE_RETURNED) }
    /// Away for one device alone, in no device's memory.
    var isExclusive: Bool { isAway && has(CLIVE_EXCLUSIVE) }
    /// Away, and to be restored without the right to write.
    var isReadOnly: Bool { has(CLIVE_READONLY) }
    /// At its address, and counted to a device: one whose memory the CPU can address, or for want of a way to move it.
    var isCoherent: Bool { state == UInt32(CLIVE_HOME) && has(CLIVE_COHERENT) }
    var frame: FrameNumber { FrameNumber(clive_frame_of(raw)) }

    /// The word of the page whose bytes lie in the next slot, if everything else is the same.
    var withNextFrame: UInt64 { raw + 1 << UInt64(CLIVE_FRAME_SHIFT) }

    private func has(_ bit: Int) -> Bool { raw & UInt64(bit) != 0 }
}
