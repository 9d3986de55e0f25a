import HMM

/// A process of a scenario that is being played: its address space, where its regions are, and the mirrors it opened.
final class PlayedProcess: @unchecked Sendable {
    let space: AddressSpace
    /// Everybody who runs a statement in the process is inside; `exit` shuts it.
    let gate = Gate()
    let mirrors: OpenMirrors
    private let lock = SpinLock(.pool)
    /// The first page of each region, by the region's number. Guarded by `lock`.
    private var starts: [PageNumber]

    init(space: AddressSpace, starts: [PageNumber], devices: PlayedDevices) {
        self.space = space
        self.starts = starts
        mirrors = OpenMirrors(space: space, devices: devices)
    }

    func start(of region: RegionID) -> PageNumber { lock.withLock { starts[region.index] } }
    func setStart(of region: RegionID, _ page: PageNumber) { lock.withLock { starts[region.index] = page } }

    /// A child process: the same regions at the same addresses, and no mirrors.
    func fork(devices: PlayedDevices) throws(HMMError) -> PlayedProcess {
        let child = try space.fork()
        return PlayedProcess(space: child, starts: lock.withLock { starts }, devices: devices)
    }

    /// Ends the process: its address space goes, then the mirrors that it opened. False if it had ended before.
    func exit() -> Bool {
        guard gate.shutAndWait() else { return false }
        space.exit()
        mirrors.closeAll()
        return true
    }
}
