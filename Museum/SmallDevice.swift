import HMM
import HMMExplorer

/// A device with memory that CPUs cannot reach, and nothing else. What its pages go through when a CPU faults on one is
/// the exhibit's to say; by default they come home as the core brings them.
///
/// Immutable but for `migrateToRam`, which is set before the first page is there.
final class SmallDevice: DevicePrivateFaultHandler, @unchecked Sendable {
    let machine: Machine
    let memory: DeviceMemory
    /// Set before the first page is there.
    var migrateToRam: ((AddressSpace, PageNumber, FrameNumber) throws(HMMError) -> Void)?

    init(_ machine: Machine, index: UInt32 = 1) {
        self.machine = machine
        memory = DeviceMemory(kind: .private, owner: index, limitBytes: 1 << 20, frames: machine.frames)
        machine.setPrivateFaultHandler(self, for: memory)
    }

    func migrateToSystem(_ space: AddressSpace, page: PageNumber, frame: FrameNumber) throws(HMMError) {
        guard let migrateToRam else { return try space.bringHome(page, frame, from: memory) }
        try migrateToRam(space, page, frame)
    }

    /// Brings pages here, as a program does that runs alone.
    func take(_ pages: PageRange, of space: AddressSpace) throws {
        let summary = try space.prefetch(pages, to: memory)
        precondition(summary.moved == pages.pageCount, "pages did not move to a device that has room")
    }

    /// The device goes away; its pages have come home or are freed. Called by a program that runs alone.
    func remove() throws {
        try machine.remove(memory)
        machine.setPrivateFaultHandler(nil, for: memory)
    }
}

extension AddressSpace {
    /// The device-private frame that the entry of `page` names, read as a fault reads it, without a lock.
    func privateFrame(_ page: PageNumber) -> FrameNumber? {
        guard let pte = tables.entry(page, .pte) else { return nil }
        schedulingPoint(.load, on: UInt(bitPattern: pte))
        guard let leaf = tables.read(pte).softLeaf, leaf.kind == .devicePrivate else { return nil }
        return leaf.frame
    }

    /// A reference to the device-private page of `page`, taken with its table locked.
    func referencePrivate(_ page: PageNumber) -> FrameNumber? {
        guard let pte = tables.lockPTE(page) else { return nil }
        defer { tables.unlock(pte) }
        guard let leaf = tables.read(pte).softLeaf, leaf.kind == .devicePrivate else { return nil }
        machine.frames.get(leaf.frame)
        return leaf.frame
    }
}
