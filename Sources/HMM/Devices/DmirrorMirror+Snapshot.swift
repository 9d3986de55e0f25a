/// What a snapshot says of one page, in the encoding of the test driver.
///
/// Kernel: HMM_DMIRROR_PROT_* (lib/test_hmm_uapi.h, 6.12).
public struct DmirrorSnapshotByte: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let read = DmirrorSnapshotByte(rawValue: 0x01)
    public static let write = DmirrorSnapshotByte(rawValue: 0x02)
    /// Mapped by a 2 MiB or a 1 GiB entry.
    public static let pmd = DmirrorSnapshotByte(rawValue: 0x04)
    public static let pud = DmirrorSnapshotByte(rawValue: 0x08)
    /// The shared page of zeros; the huge one is not told apart.
    public static let zero = DmirrorSnapshotByte(rawValue: 0x10)
    public static let privateHere = DmirrorSnapshotByte(rawValue: 0x20)
    public static let privateElsewhere = DmirrorSnapshotByte(rawValue: 0x30)
    public static let coherentHere = DmirrorSnapshotByte(rawValue: 0x40)
    public static let coherentElsewhere = DmirrorSnapshotByte(rawValue: 0x50)
    public static let error = DmirrorSnapshotByte(rawValue: 0xff)
}

/// The subscription of one chunk of a snapshot: it only has to notice that something happened.
private final class SnapshotClient: IntervalNotifierClient {
    private let mirror: DmirrorMirror
    init(_ mirror: DmirrorMirror) { self.mirror = mirror }

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if range.isBlockable {
            mirror.mutex.lock()
        } else if !mirror.mutex.tryLock() {
            return false
        }
        notifier.setSequence(sequence)
        mirror.mutex.unlock()
        return true
    }
}

extension DmirrorMirror {
    /// What the device would see, one byte a page. Faults nothing in and changes nothing.
    ///
    /// Errors: EINVAL; EBUSY after a second of retries.
    ///
    /// Invariant: INV-DM-7.
    public func snapshot(_ pages: PageRange) throws(HMMError) -> [UInt8] {
        try validate(pages)
        try requireSpace()
        var bytes: [UInt8] = []
        bytes.reserveCapacity(pages.pageCount)
        var first = pages.lowerBound
        while first < pages.upperBound {
            let end = min(first.advanced(by: Self.chunkPages), pages.upperBound)
            try appendSnapshot(of: first..<end, to: &bytes)
            first = end
        }
        return bytes
    }

    private func appendSnapshot(of chunk: PageRange, to bytes: inout [UInt8]) throws(HMMError) {
        let client = SnapshotClient(self)
        let notifier = try space.notifiers.insert(client, over: chunk)
        defer { notifier.remove() }
        var range = HMMRange(notifier, chunk)
        range.ownMemory = device.memory
        _ = try space.deviceFault(
            &range, policy: policy,
            commit: { (range: borrowing HMMRange) throws(HMMError) -> Bool in
                mutex.lock()
                defer { mutex.unlock() }
                return !range.mustRetry()
            })
        for index in 0..<chunk.pageCount { bytes.append(snapshotByte(range[index]).rawValue) }
        withExtendedLifetime(client) {}
    }

    private func snapshotByte(_ result: HMMPageResult) -> DmirrorSnapshotByte {
        if result.isError { return .error }
        guard result.isValid else { return [] }
        var byte: DmirrorSnapshotByte =
            switch space.place(of: result.frame) {
            case .system: []
            case .zeroPage: .zero
            case .device(let owner, .private): owner == UInt32(device.index) ? .privateHere : .privateElsewhere
            case .device(let owner, .coherent): owner == UInt32(device.index) ? .coherentHere : .coherentElsewhere
            }
        byte.formUnion(result.isWritable ? .write : .read)
        if result.order == Geometry.pmdOrder { byte.formUnion(.pmd) }
        if result.order == Geometry.pudOrder { byte.formUnion(.pud) }
        return byte
    }
}
