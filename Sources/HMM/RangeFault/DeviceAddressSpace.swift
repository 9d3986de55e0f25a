import Synchronization

/// What a driver sees of an address space: enough to fault, mirror and access its pages, and nothing else. A driver
/// that keeps to it runs on the model, under the explorer and on live memory.
///
/// Locks: `mmap` (here) > what a range fault takes; the driver lock is taken inside `mmap`, and inside invalidations.
public protocol DeviceAddressSpace: AnyObject, Sendable {
    /// Who is told of invalidations.
    var notifiers: MMUNotifiers { get }
    /// The bytes behind frame numbers.
    var frameWindow: FrameWindow { get }

    /// The mmap lock for reading: mappings do not change, faults go on.
    func lockMappingsForReading()
    func unlockMappingsForReading()
    /// The mmap lock for writing. Releasing it also releases all marks.
    func lockMappingsForWriting()
    func unlockMappingsForWriting()
    /// Keeps even those faults out that do without the mmap lock, until it is released. It is held for writing.
    func markMappings(_ pages: PageRange)

    /// The first mapping that ends behind `page`: the one that contains it, or the next. The mmap lock is held; what is
    /// derived from the answer is void when it is released.
    func mapping(endingAfter page: PageNumber) -> DeviceMapping?

    /// Reads, and where requested faults in, what the CPU maps (see `AddressSpace.rangeFault`). The mmap lock is held.
    func rangeFault(_ range: inout HMMRange) throws(HMMError) -> RangeFaultOutcome

    /// The pages of the run were written through a device: they differ from what swap or a file holds. Called before
    /// the invalidation that takes the mapping away returns.
    func noteDeviceWrite(_ pages: PageRange, firstFrame: FrameNumber)

    /// Whose memory the frame is.
    func place(of frame: FrameNumber) -> FramePlace

    /// How often the frame was freed so far: tells whether a frame number still means what it meant.
    func generation(of frame: FrameNumber) -> UInt32

    /// Counts for summaries: a device fault that took so many rounds.
    func noteDeviceFault(rounds: Int, entries: Int)

    /// Tells mirrors what has become due. A driver calls it at the start of each request, with no lock held.
    ///
    /// On live memory a CPU that touches a page in a device's memory takes it without waiting for anybody: the bytes
    /// are where they should be, and the mirrors hear of it here. The model tells them before it takes the page, and
    /// this does nothing.
    func deliverInvalidations()

    /// Pages may change their place before mirrors hear of it: they are coherent all the same, but a translation may be
    /// found where another is to be stored.
    var tellsMirrorsLate: Bool { get }

    /// Keeps CPUs from a page that a device reaches through `frame`, until `letGo`: round an atomic access, which no
    /// CPU may come between. False: the page is not there any more, and the device has to ask for it again. The caller
    /// waits for nothing meanwhile.
    ///
    /// In the model who wants the page waits for the callbacks of drivers and for the accesses of their devices, and
    /// this does nothing. On live memory a CPU takes it without asking, unless it is held.
    func hold(_ page: PageNumber, _ frame: FrameNumber) -> Bool
    func letGo(_ page: PageNumber, _ frame: FrameNumber)
}

extension DeviceAddressSpace {
    public func deliverInvalidations() {}
    public var tellsMirrorsLate: Bool { false }
    public func hold(_ page: PageNumber, _ frame: FrameNumber) -> Bool { true }
    public func letGo(_ page: PageNumber, _ frame: FrameNumber) {}

    /// A device is about to read or write the bytes of `page`: called right before, by drivers that are to be explored.
    /// An explorer then tries the access before and after those of CPUs and other devices, which say the same. Costs a
    /// branch otherwise.
    @inline(__always)
    public func announceAccess(to page: PageNumber, _ access: AccessKind) { page.announceAccess(access) }
}

/// A mapping as drivers see it.
public struct DeviceMapping: Hashable, Sendable {
    public var pages: PageRange
    public var protection: Protection
    /// Explicit huge pages: never migrated, never exclusive.
    public var isHugetlb: Bool
    /// Maps something that is not memory.
    public var isSpecial: Bool

    public init(pages: PageRange, protection: Protection, isHugetlb: Bool = false, isSpecial: Bool = false) {
        self.pages = pages
        self.protection = protection
        self.isHugetlb = isHugetlb
        self.isSpecial = isSpecial
    }
}

/// Whose memory a frame is.
public enum FramePlace: Hashable, Sendable {
    case system
    /// The shared 4 KiB of zeros.
    case zeroPage
    case device(owner: UInt32, DeviceMemoryKind)
}

/// Where the bytes of frames lie.
public struct FrameWindow: @unchecked Sendable {
    // SAFETY: immutable; the arena lives as long as the machine, and contents are accessed word by word, atomically.
    private let base: UnsafeMutableRawPointer
    /// Where the segments of the running process begin, by their numbers; nil where frames are all of the machine.
    private let segments: UnsafePointer<UnsafeMutableRawPointer?>?

    public init(base: UnsafeMutableRawPointer) {
        self.base = base
        segments = nil
    }

    /// - Parameter segments: an entry is set before the first frame number of its segment is known to anybody.
    package init(base: UnsafeMutableRawPointer, segments: UnsafePointer<UnsafeMutableRawPointer?>) {
        self.base = base
        self.segments = segments
    }

    /// The 512 words of the frame. Others may access them at the same time.
    @inline(__always)
    public func words(of frame: FrameNumber) -> UnsafeMutablePointer<Atomic<UInt64>> {
        let start = frame.isLive ? liveBytes(of: frame) : base + Int(frame.raw) << 12
        return start.assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    private func liveBytes(of frame: FrameNumber) -> UnsafeMutableRawPointer {
        let number = frame.raw & ~FrameNumber.liveBit
        guard let start = segments?[Int(number >> UInt32(FrameNumber.liveSegmentOrder))] else {
            preconditionFailure("a live frame of another address space")
        }
        return start + Int(number & (1 << UInt32(FrameNumber.liveSegmentOrder) - 1)) << 12
    }
}

extension AddressSpace: DeviceAddressSpace {
    public func lockMappingsForReading() { lockForReading() }
    public func unlockMappingsForReading() { unlockForReading() }
    public func lockMappingsForWriting() { lockForWriting() }
    public func unlockMappingsForWriting() { unlockForWriting() }
    public func markMappings(_ pages: PageRange) { markWrite(pages) }

    public var frameWindow: FrameWindow { FrameWindow(base: frames.bytes) }

    public func mapping(endingAfter page: PageNumber) -> DeviceMapping? {
        vmas.firstEnding(after: page).map {
            DeviceMapping(
                pages: $0.pages, protection: $0.flags.protection, isHugetlb: $0.isHugetlb,
                isSpecial: $0.flags.contains(.special))
        }
    }

    public func noteDeviceWrite(_ pages: PageRange, firstFrame: FrameNumber) {
        for offset in 0..<pages.pageCount { frames.setFlags(frames.head(of: firstFrame + offset), FrameFlags.dirty) }
    }

    public func place(of frame: FrameNumber) -> FramePlace {
        if let memory = frames.deviceMemory(of: frame) { return .device(owner: memory.owner, memory.kind) }
        return frame == FrameTable.zeroFrame ? .zeroPage : .system
    }

    public func generation(of frame: FrameNumber) -> UInt32 { frames.generation(of: frame) }

    public func noteDeviceFault(rounds: Int, entries: Int) {
        machine.statistics.noteDeviceFault(rounds: rounds, entries: entries)
    }
}
