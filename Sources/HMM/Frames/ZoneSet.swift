/// A set of zones of device memory, small and quick to ask.
struct ZoneSet {
    /// Zones below 64, one bit each.
    private var low: UInt64 = 0
    private var high: [UInt16] = []

    init(_ memories: [DeviceMemory]) { for memory in memories { insert(memory) } }

    mutating func insert(_ memory: DeviceMemory) {
        if memory.zone < 64 { low |= 1 << UInt64(memory.zone) } else { high.append(memory.zone) }
    }

    @inline(__always)
    func contains(_ zone: Int) -> Bool {
        zone < 64 ? low & (1 << UInt64(zone)) != 0 : high.contains(UInt16(zone))
    }
}
