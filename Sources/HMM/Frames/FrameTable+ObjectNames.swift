extension FrameTable {
    /// What the object at `address` is, for people; nil if it is none of the frames'. Asked while all threads stand
    /// still.
    func objectName(at address: UInt) -> String? {
        let first = UInt(bitPattern: records)
        let stride = UInt(MemoryLayout<FrameRecord>.stride)
        if address >= first, address < first + UInt(limit.raw) * stride {
            let frame = FrameNumber(UInt32(truncatingIfNeeded: (address - first) / stride))
            switch (address - first) % stride {
            case 0: return "folio lock of \(frame)"
            case 1: return "unlocking of \(frame)"
            case 2: return "references of \(frame)"
            case 3: return "mappings of \(frame)"
            case 4: return "place of \(frame) on the list of reclaim"
            case 5: return "caching of \(frame)"
            default: return "pins of \(frame)"
            }
        }
        for (index, memory) in deviceZones.enumerated()
        where UInt(bitPattern: Unmanaged.passUnretained(memory).toOpaque()) == address {
            return "device memory of zone \(index)"
        }
        return nil
    }
}
