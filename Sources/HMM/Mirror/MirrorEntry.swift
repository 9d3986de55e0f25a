/// Where the bytes behind a mirror entry are, as seen from the device that owns the mirror.
public enum MirrorLocation: UInt8, Sendable, CaseIterable {
    case system
    case ownDevice
    /// The memory of another device.
    case peer
}

/// One entry of a mirror: a 64-bit word, read and written atomically.
///
/// | bit | meaning | changed under |
/// | --- | --- | --- |
/// | 0 | the payload is a device address | directory lock |
/// | 1 | the payload is a frame number | directory lock |
/// | 2 | the device may write | directory lock |
/// | 3 | the device wrote since the last harvest | atomic, no lock |
/// | 4, 5 | private to the driver | atomic, no lock |
/// | 6 | mapped for atomic operations | directory lock |
/// | 7, 8 | location | directory lock |
/// | 9, 10 | the level at which this leaf stands: 4 KiB, 2 MiB, 1 GiB | directory lock |
/// | 11 | not a leaf: the payload is the index of a directory | directory lock |
/// | 12… | payload | directory lock |
///
/// Invariant: INV-MT-ENTRY: an entry that is neither valid nor a directory is all zero.
public struct MirrorEntry: Hashable, Sendable, CustomStringConvertible {
    public let word: UInt64

    static let validDMABit: UInt64 = 1 << 0
    static let validPFNBit: UInt64 = 1 << 1
    static let writeBit: UInt64 = 1 << 2
    static let dirtyBit: UInt64 = 1 << 3
    static let driverShift: UInt64 = 4
    static let driverMask: UInt64 = 3 << driverShift
    static let atomicBit: UInt64 = 1 << 6
    static let locationShift: UInt64 = 7
    static let locationMask: UInt64 = 3 << locationShift
    static let levelShift: UInt64 = 9
    static let levelMask: UInt64 = 3 << levelShift
    static let directoryBit: UInt64 = 1 << 11
    static let payloadShift: UInt64 = 12

    static let validMask = validDMABit | validPFNBit
    static let dirtyAndWrite = dirtyBit | writeBit
    /// What identifies the translation: everything except rights and what devices and drivers set.
    static let translationMask = ~(writeBit | dirtyBit | driverMask | atomicBit)

    init(word: UInt64) { self.word = word }

    /// A leaf that names a frame.
    public init(
        frame: FrameNumber, isWritable: Bool, isAtomic: Bool = false, location: MirrorLocation = .system,
        isDirty: Bool = false, level: Int = 0
    ) {
        var word = Self.validPFNBit | UInt64(frame.raw) << Self.payloadShift
        if isWritable { word |= Self.writeBit }
        if isAtomic { word |= Self.atomicBit }
        if isDirty { word |= Self.dirtyBit }
        word |= UInt64(location.rawValue) << Self.locationShift
        word |= UInt64(level) << Self.levelShift
        self.word = word
    }

    /// The link to the directory with this index in the pool.
    static func directory(_ index: UInt32) -> Self {
        Self(word: directoryBit | UInt64(index) << payloadShift)
    }

    public var isValid: Bool { word & Self.validMask != 0 }
    /// The payload is an address of the device's bus, in pages.
    public var isDeviceAddress: Bool { word & Self.validDMABit != 0 }
    public var isWritable: Bool { word & Self.writeBit != 0 }
    public var isDirty: Bool { word & Self.dirtyBit != 0 }
    public var isAtomic: Bool { word & Self.atomicBit != 0 }
    /// Free for the driver; cleared with the entry.
    public var driverBits: UInt8 { UInt8((word & Self.driverMask) >> Self.driverShift) }
    public var location: MirrorLocation {
        MirrorLocation(rawValue: UInt8((word & Self.locationMask) >> Self.locationShift)) ?? .system
    }
    /// 0: the entry maps 4 KiB, 1: 2 MiB, 2: 1 GiB.
    var level: Int { Int((word & Self.levelMask) >> Self.levelShift) }
    /// The entry maps 2^order pages.
    public var order: Int { level * MirrorGeometry.bitsPerLevel }

    var isDirectory: Bool { word & Self.directoryBit != 0 }
    var directoryIndex: UInt32 { UInt32(truncatingIfNeeded: word >> Self.payloadShift) }
    /// Frame number or device page number of the first page of the leaf.
    public var payload: UInt64 { word >> Self.payloadShift }
    /// The frame of the first page.
    ///
    /// Precondition: the payload is a frame number.
    public var frame: FrameNumber {
        precondition(!isDeviceAddress, "the entry was converted to a device address")
        return FrameNumber(truncating: payload)
    }

    /// The frame of the first page, where device addresses lie `deviceAddressOffset` pages above frame numbers.
    func frame(deviceAddressOffset: UInt64) -> FrameNumber {
        FrameNumber(truncating: isDeviceAddress ? payload &- deviceAddressOffset : payload)
    }

    /// The same entry with a device address in place of the frame number; rights, dirty and driver bits stay.
    func convertedToDeviceAddress(offset: UInt64) -> Self {
        Self(word: (word & ~Self.validPFNBit | Self.validDMABit) &+ offset << Self.payloadShift)
    }

    /// Whether the entry's rights suffice for an access.
    ///
    /// Atomic operations on the device's own memory are local; on system memory they need the atomic tag.
    public func allows(_ access: AccessKind) -> Bool {
        switch access {
        case .read: isValid
        case .write: isValid && isWritable
        case .atomic: isValid && isWritable && (isAtomic || location == .ownDevice)
        }
    }

    /// The same entry, with the payload `pages` further on.
    func advanced(by pages: Int) -> Self {
        Self(word: word &+ UInt64(truncatingIfNeeded: pages) << Self.payloadShift)
    }

    /// The entry for one piece of this leaf, a leaf of a lower level; what is dirty stays with the caller.
    func demoted(to level: Int, offsetInPages: Int) -> Self {
        let cleared = word & ~(Self.levelMask | Self.dirtyBit)
        return Self(word: cleared | UInt64(level) << Self.levelShift).advanced(by: offsetInPages)
    }

    public var description: String {
        guard !isDirectory else { return "directory \(directoryIndex)" }
        guard isValid else { return "none" }
        var text = isDeviceAddress ? "device page \(payload)" : "frame \(payload)"
        text += isWritable ? " rw" : " r"
        if isAtomic { text += " atomic" }
        if isDirty { text += " dirty" }
        if level > 0 { text += " order \(order)" }
        if location != .system { text += " \(location)" }
        return text
    }
}
