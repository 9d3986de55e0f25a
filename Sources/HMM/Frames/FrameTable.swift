import Synchronization

/// All frames of a machine: their records and their bytes, indexed by frame number.
///
/// Frame numbers: 0 is never used, `zeroFrame` and the 512 frames at `hugeZeroFrame` are the shared zero pages, then
/// system memory, the hugetlb pool, then the chunks of device memory in the order in which they were made.
public final class FrameTable: @unchecked Sendable {
    // `records` and `bytes` are immutable; what they point to is guarded as `FrameRecord` says, and page contents by
    // whoever holds a mapping or the only reference.
    @usableFromInline let bytes: UnsafeMutableRawPointer
    let records: UnsafeMutablePointer<FrameRecord>
    private let byteArena: HostMemory
    private let recordArena: HostMemory
    /// One past the last frame number that can ever exist.
    let limit: FrameNumber
    let injector: FaultInjector
    /// The machine, which owns this table; set before the first folio is locked.
    package unowned(unsafe) var swapCacheDropper: (any SwapCacheDropper)?
    let system: FrameAllocator
    let hugetlb: HugetlbPool
    /// Device memory, by zone number minus 1. Guarded by `zonesLock`; entries are only appended.
    private(set) var deviceZones: [DeviceMemory] = []
    private let zonesLock = SpinLock(.pool)
    /// Frames of a chunk of device memory: 256 MiB. Each chunk has as many frame numbers, even if it is smaller.
    package static let chunkFrames = 65536
    private let deviceStart: UInt32
    /// The zone number of each chunk. An entry is written once, before any frame of the chunk is known.
    private let chunkZones: UnsafeMutablePointer<UInt16>
    private let chunkLimit: Int
    /// By zone number, whether it is device-private. Written once, before any frame of the zone is known.
    private let privateZones: UnsafeMutablePointer<Bool>
    /// Chunks given to zones. Guarded by `zonesLock`.
    private var chunkCount = 0

    /// Frames of device memory that nobody uses have no bytes: they go away with the page, and whoever touched one
    /// would make some. Set before the first allocation, immutable afterwards.
    package var leavesSlotsEmpty = false

    /// The shared page of zeros. Mapped only read-only, never counted.
    package static let zeroFrame = FrameNumber(1)
    /// The shared 2 MiB of zeros.
    package static let hugeZeroFrame = FrameNumber(512)
    private static let firstSystemFrame = FrameNumber(1024)

    /// - Parameters:
    ///   - systemFrames: frames of system memory, without those of the hugetlb pool.
    ///   - hugetlbPages: pages of 2 MiB in the hugetlb pool.
    ///   - deviceFrames: address space for frames of device memory, of all devices together.
    ///   - hostHugePages: the host may back frames with huge pages of its own.
    package init(
        systemFrames: Int, hugetlbPages: Int, deviceFrames: Int, hostHugePages: Bool, injector: FaultInjector
    ) throws(HMMError) {
        let first = Int(Self.firstSystemFrame.raw)
        let huge = 1 << Geometry.pmdOrder
        let poolStart = (first + systemFrames + huge - 1) / huge * huge
        // Device chunks start aligned to 1 GiB, whatever the size of system memory.
        let gibibyte = 1 << Geometry.pudOrder
        let deviceStart = (poolStart + hugetlbPages * huge + gibibyte - 1) / gibibyte * gibibyte
        chunkLimit = (deviceFrames + Self.chunkFrames - 1) / Self.chunkFrames
        let total = deviceStart + chunkLimit * Self.chunkFrames
        byteArena = try HostMemory(lengthBytes: total * Geometry.pageSizeBytes)
        if hostHugePages { byteArena.preferHugePages(offset: 0, lengthBytes: byteArena.lengthBytes) }
        recordArena = try HostMemory(lengthBytes: total * MemoryLayout<FrameRecord>.stride)
        bytes = byteArena.base
        records = recordArena.elements(of: FrameRecord.self)
        limit = FrameNumber(UInt32(total))
        self.deviceStart = UInt32(deviceStart)
        chunkZones = .allocate(capacity: max(1, chunkLimit))
        chunkZones.initialize(repeating: 0, count: max(1, chunkLimit))
        privateZones = .allocate(capacity: 1 << 16)
        privateZones.initialize(repeating: false, count: 1 << 16)
        self.injector = injector
        system = FrameAllocator(
            records: records, bytes: byteArena.base, first: first, count: systemFrames, isShared: true)
        hugetlb = HugetlbPool(firstFrame: FrameNumber(UInt32(poolStart)), pageCount: hugetlbPages)
        for frame in [Self.zeroFrame, Self.hugeZeroFrame] {
            records[Int(frame.raw)].refCount.store(1, ordering: .relaxed)
            records[Int(frame.raw)].flags.store(FrameFlags.upToDate, ordering: .relaxed)
        }
        initializeGeometry(Self.hugeZeroFrame, order: Geometry.pmdOrder)
    }

    deinit {
        chunkZones.deallocate()
        privateZones.deallocate()
    }

    /// All bytes, from frame 0 on, and how many frames there can ever be.
    package var arena: (base: UnsafeMutableRawPointer, frameCount: Int) { (bytes, Int(limit.raw)) }

    // MARK: Bytes

    /// The first byte of the frame.
    @inline(__always)
    package func bytes(of frame: FrameNumber) -> UnsafeMutableRawPointer {
        bytes + Int(frame.raw) << 12
    }

    /// The 512 words of the frame. Whoever may run beside another accessor of the page reads and writes them
    /// atomically, a word at a time, as hardware does.
    @inline(__always)
    public func words(of frame: FrameNumber) -> UnsafeMutablePointer<Atomic<UInt64>> {
        (bytes + Int(frame.raw) << 12).assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    /// Copies pages between neighbouring frames that nobody writes meanwhile.
    @inline(__always)
    package func copy(_ source: FrameNumber, to destination: FrameNumber, count: Int = 1) {
        copyPages(from: bytes(of: source), to: bytes(of: destination), count: count)
    }

    /// Whether every byte of the page is zero. Nobody may write meanwhile.
    func isZero(_ frame: FrameNumber) -> Bool {
        let words = bytes(of: frame).assumingMemoryBound(to: UInt64.self)
        for i in 0..<Geometry.wordsPerPage where words[i] != 0 { return false }
        return true
    }

    // MARK: Records

    @inline(__always)
    package func record(_ frame: FrameNumber) -> UnsafeMutablePointer<FrameRecord> {
        records + Int(frame.raw)
    }

    @inline(__always)
    package func flags(_ frame: FrameNumber) -> UInt32 { record(frame).pointee.flags.load(ordering: .acquiring) }
    @inline(__always)
    package func setFlags(_ frame: FrameNumber, _ bits: UInt32) {
        record(frame).pointee.flags.bitwiseOr(bits, ordering: .acquiringAndReleasing)
    }
    @inline(__always)
    package func clearFlags(_ frame: FrameNumber, _ bits: UInt32) {
        record(frame).pointee.flags.bitwiseAnd(~bits, ordering: .acquiringAndReleasing)
    }
    @inline(__always)
    package func hasFlags(_ frame: FrameNumber, _ bits: UInt32) -> Bool { flags(frame) & bits != 0 }

    @inline(__always)
    func isZeroFrame(_ frame: FrameNumber) -> Bool {
        frame == Self.zeroFrame || (frame.raw >= 512 && frame.raw < 1024)
    }

    /// The zone number of a frame: 0 for system memory, and for a page of a live process.
    @inline(__always)
    package func zone(of frame: FrameNumber) -> Int {
        frame.raw < deviceStart || frame.isLive ? 0 : Int(chunkZones[Int(frame.raw - deviceStart) / Self.chunkFrames])
    }

    /// The device memory that a frame belongs to, or nil for system memory.
    package func deviceMemory(of frame: FrameNumber) -> DeviceMemory? {
        let zone = zone(of: frame)
        guard zone > 0 else { return nil }
        return zonesLock.withLock { deviceZones[zone - 1] }
    }

    @inline(__always)
    package func isDevicePrivate(_ frame: FrameNumber) -> Bool { privateZones[zone(of: frame)] }

    /// Takes part in no list of reclaim, swap or collapse.
    @inline(__always)
    func isDeviceFrame(_ frame: FrameNumber) -> Bool { zone(of: frame) > 0 }

    // MARK: Zones

    /// Makes `memory` a zone of this table, empty yet.
    func attach(_ memory: DeviceMemory) -> UInt16 {
        zonesLock.withLock {
            deviceZones.append(memory)
            privateZones[deviceZones.count] = memory.kind == .private
            return UInt16(deviceZones.count)
        }
    }

    /// The first frame of a new chunk of the zone, or nil when there are no frame numbers left.
    func reserveDeviceChunk(zone: UInt16) -> FrameNumber? {
        zonesLock.withLock {
            guard chunkCount < chunkLimit else { return nil }
            chunkZones[chunkCount] = zone
            defer { chunkCount += 1 }
            return FrameNumber(deviceStart + UInt32(chunkCount * Self.chunkFrames))
        }
    }

    /// Makes all memory what it was before the first allocation; devices that were removed are forgotten, if no other
    /// was made after them. No frame is in use, and nobody else calls.
    func recycle() {
        system.recycle()
        recycleHugetlb()
        for memory in deviceZones { memory.recycle() }
        let kept = deviceZones.lastIndex { !$0.isGone }.map { $0 + 1 } ?? 0
        zonesLock.withLock {
            for zone in kept..<deviceZones.count { privateZones[zone + 1] = false }
            deviceZones.removeLast(deviceZones.count - kept)
            for chunk in 0..<chunkCount { chunkZones[chunk] = 0 }
            chunkCount = 0
        }
    }
}
