/// The names of a scenario while it is read, and from where each can be used.
struct NameTable {
    /// Where a statement stands: outside of races, or in one group of the race being read.
    enum Place: Hashable {
        case main
        case group(Int)
    }

    private struct Process {
        var id: ProcessID
        var madeIn: Place
        var exitedIn: Place?
    }

    enum ProcessLookup: Equatable {
        case found(ProcessID)
        case unknown
        /// Forked by another group of the same race, which may not have come that far.
        case madeByOtherGroup
        case exited
    }

    private(set) var place = Place.main
    private var isInRace = false
    private var processes: [String: Process] = ["main": Process(id: .main, madeIn: .main)]
    private var regions: [String: RegionID] = [:]
    private var devices: [String: DeviceID]
    /// The first place that no region takes and no move goes to.
    private(set) var nextSlot = 0

    init() {
        devices = [:]
        for (index, device) in Scenario.builtInDevices.enumerated() { devices[device.name] = DeviceID(index: index) }
    }

    mutating func enterRace() { isInRace = true }
    mutating func enterGroup(_ index: Int) { place = .group(index) }

    /// What the groups did has happened now.
    mutating func leaveRace() {
        isInRace = false
        place = .main
        processes = processes.mapValues { process in
            var process = process
            process.madeIn = .main
            if process.exitedIn != nil { process.exitedIn = .main }
            return process
        }
    }

    func process(named name: String) -> ProcessLookup {
        guard let process = processes[name] else { return .unknown }
        if process.madeIn != .main && process.madeIn != place { return .madeByOtherGroup }
        if let exitedIn = process.exitedIn, exitedIn == .main || exitedIn == place { return .exited }
        return .found(process.id)
    }

    mutating func exit(_ name: String) { processes[name]?.exitedIn = place }

    func region(named name: String) -> RegionID? { regions[name] }
    func device(named name: String) -> DeviceID? { devices[name] }

    func isTaken(process name: String) -> Bool { processes[name] != nil }

    mutating func declare(process name: String, _ id: ProcessID) {
        processes[name] = Process(id: id, madeIn: place)
    }
    mutating func declare(region name: String, _ id: RegionID) { regions[name] = id }
    mutating func declare(device name: String, _ id: DeviceID) { devices[name] = id }

    /// Takes places that nothing else gets; nil when the address space ends before.
    mutating func takeSlots(forPages pages: Int) -> Int? {
        let count = Layout.slots(forPages: pages)
        guard nextSlot + count <= Layout.slotCount else { return nil }
        defer { nextSlot += count }
        return nextSlot
    }
}
