import HMM

/// The devices of a scenario that is being played.
package final class PlayedDevices: @unchecked Sendable {
    private let machine: Machine
    private let turnstile = Turnstile()
    /// By the device's number; made at first use. Guarded by `turnstile`.
    private var devices: [DmirrorDevice?]
    private let declared: [Scenario.Device]

    package init(machine: Machine, declared: [Scenario.Device]) {
        self.machine = machine
        self.declared = declared
        devices = Array(repeating: nil, count: declared.count)
    }

    /// The mirrors that are open on all devices, of all processes.
    package var openMirrors: [DmirrorMirror] {
        turnstile.with { devices.flatMap { $0?.openMirrors ?? [] } }
    }

    /// Removes all devices. Answers what was left behind.
    package func removeAll() -> [String] {
        turnstile.with {
            devices.compactMap { device in
                do throws(HMMError) {
                    try device?.remove()
                    return nil
                } catch {
                    return "INV-DM-6: \(device?.name ?? "") cannot go: \(error)"
                }
            }
        }
    }

    package func device(_ id: DeviceID) throws(HMMError) -> DmirrorDevice {
        try turnstile.with { () throws(HMMError) in
            if let device = devices[id.index] { return device }
            let description = declared[id.index]
            let device = try DmirrorDevice(
                machine: machine, name: description.name,
                kind: description.kind == .private ? .private : .coherent, index: id.index,
                capacityBytes: description.memoryBytes)
            devices[id.index] = device
            return device
        }
    }
}

/// The mirrors that a process has open, one a device, as a process has open files: a request holds the file, and
/// `close` is the last close only when no request does.
///
/// Locks: `turnstile` (opening and closing) > `lock` (.pool).
package final class OpenMirrors: @unchecked Sendable {
    private final class File {
        let mirror: DmirrorMirror
        /// Requests under way, and one for being open. Guarded by `lock`.
        var users = 1
        init(_ mirror: DmirrorMirror) { self.mirror = mirror }
    }

    private let space: any MigratingAddressSpace
    private let devices: PlayedDevices
    private let turnstile = Turnstile()
    private let lock = SpinLock(.pool)
    /// By the device's number. Guarded by `lock`; changed inside `turnstile`.
    private var files: [File?] = Array(repeating: nil, count: Limits.devices)

    package init(space: any MigratingAddressSpace, devices: PlayedDevices) {
        self.space = space
        self.devices = devices
    }

    /// Runs a request on the mirror, which is opened if it is not.
    package func with<Result>(
        _ device: DeviceID, _ body: (DmirrorMirror) throws(HMMError) -> Result
    ) throws(HMMError) -> Result {
        let file = try take(device)
        defer { put(file) }
        return try body(file.mirror)
    }

    package func isOpen(_ device: DeviceID) -> Bool { lock.withLock { files[device.index] != nil } }

    private func take(_ device: DeviceID) throws(HMMError) -> File {
        // Requests count themselves in and out in any order; what they meet is whoever opens or closes.
        schedulingPoint(.load, on: key)
        if let file = takeOpen(device) { return file }
        return try turnstile.with { () throws(HMMError) in
            if let file = takeOpen(device) { return file }
            let file = File(try devices.device(device).open(space))
            file.users += 1
            schedulingPoint(.update, on: key)
            lock.withLock { files[device.index] = file }
            return file
        }
    }

    private func takeOpen(_ device: DeviceID) -> File? {
        lock.withLock {
            guard let file = files[device.index] else { return nil }
            file.users += 1
            return file
        }
    }

    private func put(_ file: File) {
        schedulingPoint(.load, on: key)
        let isLast = lock.withLock {
            file.users -= 1
            return file.users == 0
        }
        if isLast { file.mirror.close() }
    }

    /// Closes the mirror; nothing happens when it is not open.
    package func close(_ device: DeviceID) {
        let file = turnstile.with {
            schedulingPoint(.update, on: key)
            return lock.withLock {
                defer { files[device.index] = nil }
                return files[device.index]
            }
        }
        if let file { put(file) }
    }

    package func closeAll() {
        for index in files.indices { close(DeviceID(index: index)) }
    }

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
