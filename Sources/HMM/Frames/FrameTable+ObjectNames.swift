extension FrameTable {
    /// What the object at `address` is, for people; nil if it is none of the frames'. Asked while all threads stand
    /// still.
    func objectName(at address: UInt) -> String? {
        let first = UInt(bitPattern: records)
        let stride = UInt(MemoryLayout<FrameRecord>.stride)
        if address >= first, address < first + UInt(limit.raw) * stride {
            let frame = FrameNumber(UInt32(truncatingIfNeeded: (address - first) / stride))
            // Lock and counts lie in one record; the byte behind its start is what watchers of the lock sleep on.
            return (address - first) % stride == 0 ? "folio lock of \(frame)" : "unlocking of \(frame)"
        }
        for (index, memory) in deviceZones.enumerated()
        where UInt(bitPattern: Unmanaged.passUnretained(memory).toOpaque()) == address {
            return "device memory of zone \(index)"
        }
        return nil
    }
}
