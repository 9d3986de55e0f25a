// What the drivers call their own locks, for people who read a schedule.

extension DmirrorMirror: ObjectNaming {
    public func objectName(at address: UInt) -> String? {
        if address == mutex.address { return "driver lock of \(device.name)" }
        if address == migrations.key { return "own migrations of \(device.name)" }
        return table.holds(address) ? "mirror of \(device.name)" : nil
    }
}

extension SoftwareDevice: ObjectNaming {
    public func objectName(at address: UInt) -> String? {
        if address == driverLock.address { return "driver lock of device \(owner.device)" }
        return address == tlb.waitKey ? "TLB of device \(owner.device)" : nil
    }
}
