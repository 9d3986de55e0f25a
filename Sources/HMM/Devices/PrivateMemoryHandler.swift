/// Brings pages home that a CPU touches in the private memory of a device.
///
/// An object of its own, because the machine keeps it, and devices keep their machine. It stays as long as there are
/// pages, even if the device is gone: what somebody holds in its memory is as readable as before.
final class PrivateMemoryHandler: DevicePrivateFaultHandler, @unchecked Sendable {
    // Immutable.
    private let memory: DeviceMemory
    /// Whose mirrors are to be asked first, if it has any.
    private weak var device: DmirrorDevice?

    init(_ memory: DeviceMemory, device: DmirrorDevice? = nil) {
        self.memory = memory
        self.device = device
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        if let mirror = device?.openMirrors.first(where: { $0.space === space }) {
            return try mirror.bringHome(page, frame, in: space)
        }
        // Nobody mirrors this address space, the page came here by a fork; or the driver knows its own moves by their
        // events.
        try space.bringHome(page, frame, from: memory)
    }

    func pageCameHome(_ page: PageNumber, in notifiers: MMUNotifiers) -> NotifierOwner? {
        guard let mirror = device?.openMirrors.first(where: { $0.space.notifiers === notifiers }) else { return nil }
        mirror.forgetPage(page)
        return mirror.owner
    }
}
