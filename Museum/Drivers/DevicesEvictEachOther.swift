import HMM
import HMMExplorer

// Lock order of the mended driver: the driver-wide lock > mmap.

extension Exhibit {
    static let devicesEvictEachOther = Exhibit(
        "devices-evict-each-other",
        source: "0620837490e0 drm/xe/svm: Serialize migration to device if racing",
        story: """
            Two devices fault on one range, and each moves it to its own memory. Who finds that not every page can be \
            had gets EBUSY, evicts the range to system memory and tries again; that takes from the other what it has \
            just got, before it could map it. Both go on for ever. Mended: a driver-wide lock, shared at first; after \
            the first EBUSY a device takes it alone, and keeps it until its mapping is made.
            """,
        kind: .livelock, strategy: .random
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        let turn = DriverWideLock()
        let devices = try (1...2).map { try RacingDevice(space, index: $0) }
        for device in devices {
            scene.thread("gpu \(device.index)") {
                switch version {
                case .asItWas: while try !device.faultOnce({}) {}
                case .mended: try faultInTurn(device, turn)
                }
            }
        }
        scene.join()
        for index in 0..<2 {
            let word = try cpu.load(Place.base.advanced(by: index).address)
            scene.check(word == UInt64(index) + 1, "page \(index) holds \(word)")
        }
        for device in devices { try device.close() }
        space.exit()
    }

    private static func faultInTurn(_ device: RacingDevice, _ turn: DriverWideLock) throws {
        turn.lock.lockRead()
        var isAlone = false
        // The scope of the lock ends with the fault, whichever way it is held.
        while try !device.faultOnce({
            if isAlone { return }
            turn.lock.unlockRead()
            turn.lock.lockWrite()
            isAlone = true
        }) {}
        if isAlone { turn.lock.unlockWrite() } else { turn.lock.unlockRead() }
    }
}

/// Shared by all devices of the driver, outside of all locks of the core.
private final class DriverWideLock: Sendable {
    let lock = RWLock(.inode)
}

/// A device that wants two pages in its own memory before it maps them.
private final class RacingDevice: DevicePrivateFaultHandler, @unchecked Sendable {
    // All immutable.
    let index: Int
    private let space: AddressSpace
    private let memory: DeviceMemory
    private let subscription: Subscription

    init(_ space: AddressSpace, index: Int) throws {
        (self.space, self.index) = (space, index)
        memory = DeviceMemory(kind: .private, owner: UInt32(index), limitBytes: 1 << 20, frames: space.machine.frames)
        subscription = try Subscription(to: space, over: Place.pages(2))
        space.machine.setPrivateFaultHandler(self, for: memory)
    }

    /// Migrates, or evicts if that is refused, after telling `busy`; then maps. True if both pages were mapped where
    /// they belong.
    func faultOnce(_ busy: () -> Void) throws -> Bool {
        let request = MigrationRequest.toDevice(memory)
        let summary = try space.migrate(Place.pages(2), request, copy: { $0.copyToDevice(memory) })
        if summary.moved < 2 {
            busy()
            work(on: self, steps: 4)
            try evict()
            return false
        }
        return try map()
    }

    /// Faults the range into system memory, whoever has it.
    private func evict() throws {
        var range = HMMRange(subscription.interval, Place.pages(2))
        range.defaultRequest = .fault
        _ = try space.deviceFault(&range) { (_: borrowing HMMRange) throws(HMMError) in true }
    }

    private func map() throws -> Bool {
        var range = HMMRange(subscription.interval, Place.pages(2))
        range.ownMemory = memory
        var isMapped = false
        _ = try space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) in
            subscription.lock.lock()
            defer { subscription.lock.unlock() }
            if range.mustRetry() { return false }
            isMapped = (0..<2).allSatisfy { range[$0].isValid && memory.contains(range[$0].frame) }
            return true
        }
        return isMapped
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        try space.bringHome(page, frame, from: memory)
    }

    func close() throws {
        subscription.remove()
        try space.machine.remove(memory)
        space.machine.setPrivateFaultHandler(nil, for: memory)
    }
}
