extension Verb {
    /// Statements of a process.
    static let ofProcesses: [Verb] = [
        Verb(
            actor: .process, word: "map", parameters: [.newRegion, .pages, .protection, .mapOptions],
            meaning: "a new region; private and anonymous unless told otherwise"),
        Verb(actor: .process, word: "unmap", parameters: [.range], meaning: "munmap"),
        Verb(actor: .process, word: "protect", parameters: [.range, .protection], meaning: "mprotect"),
        Verb(actor: .process, word: "advise", parameters: [.range, .advice], meaning: "madvise"),
        Verb(actor: .process, word: "move", parameters: [.movedRegion], meaning: "mremap to another address"),
        Verb(actor: .process, word: "fork", parameters: [.newProcess], meaning: "a child process"),
        Verb(actor: .process, word: "exit", parameters: [], meaning: "the process ends", endsProcess: true),
        Verb(
            actor: .process, word: "device", parameters: [.newDevice, .deviceKind, .size],
            meaning: "one more device, with SIZE bytes of memory", isOutsideRaces: true),
    ]

    /// Accesses of a process's CPU.
    static let ofCPUs: [Verb] = [
        Verb(actor: .cpu, word: "read", parameters: [.range], meaning: "the CPU reads every page"),
        Verb(
            actor: .cpu, word: "write", parameters: [.range, .seed],
            meaning: "the CPU fills every page with words made from SEED"),
    ]

    /// What a process asks of a device.
    static let ofDevices: [Verb] = [
        Verb(actor: .device, word: "read", parameters: [.range], meaning: "the device reads the range"),
        Verb(
            actor: .device, word: "write", parameters: [.range, .seed],
            meaning: "the device fills the range with words made from SEED"),
        Verb(actor: .device, word: "migrate", parameters: [.range], meaning: "move the range to the device's memory"),
        Verb(actor: .device, word: "evict", parameters: [.range], meaning: "move the range back to system memory"),
        Verb(actor: .device, word: "exclusive", parameters: [.range], meaning: "take exclusive access, for atomics"),
        Verb(
            actor: .device, word: "check-exclusive", parameters: [.range],
            meaning: "fails while the device has exclusive access to a page"),
        Verb(
            actor: .device, word: "snapshot", parameters: [.range],
            meaning: "what the device would see, without faulting"),
        Verb(actor: .device, word: "release", parameters: [], meaning: "the device gives all its memory back"),
        Verb(actor: .device, word: "open", parameters: [], meaning: "open this process's mirror"),
        Verb(actor: .device, word: "close", parameters: [], meaning: "drop this process's mirror"),
    ]
}
