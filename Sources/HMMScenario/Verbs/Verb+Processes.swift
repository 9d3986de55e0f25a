import HMM

extension Verb {
    /// Statements of a process.
    static let ofProcesses: [Verb] = [
        Verb(
            actor: .process, word: "map", parameters: [.newRegion, .pages, .protection, .mapOptions],
            meaning: "a new region; plain: private and anonymous",
            play: { call throws(HMMError) in try call.map() }),
        Verb(
            actor: .process, word: "unmap", parameters: [.range], meaning: "munmap",
            play: { call throws(HMMError) in
                try call.process.space.unmap(call.range(0).pages)
                return .ok
            }),
        Verb(
            actor: .process, word: "protect", parameters: [.range, .protection], meaning: "mprotect",
            play: { call throws(HMMError) in
                try call.process.space.protect(call.range(0).pages, call.protection(1))
                return .ok
            }),
        Verb(
            actor: .process, word: "advise", parameters: [.range, .advice], meaning: "madvise",
            play: { call throws(HMMError) in
                guard case .advice(let advice) = call.statement.operands[1] else { call.wrongOperand(1) }
                try call.process.space.advise(call.range(0).pages, advice)
                return .ok
            }),
        Verb(
            actor: .process, word: "move", parameters: [.movedRegion], meaning: "mremap to another address",
            play: { call throws(HMMError) in try call.move() }),
        Verb(
            actor: .process, word: "fork", parameters: [.newProcess], meaning: "a child process",
            play: { call throws(HMMError) in
                guard case .process(let child) = call.statement.operands[0] else { call.wrongOperand(0) }
                call.player.setProcess(child, try call.process.fork(devices: call.player.devices))
                return .ok
            }),
        Verb(
            actor: .process, word: "exit", parameters: [], meaning: "the process ends",
            // Only who stands outside of the process can end it: `PlayThread` does.
            play: { call throws(HMMError) in preconditionFailure("exit ran inside of its process") },
            endsProcess: true),
        Verb(
            actor: .process, word: "device", parameters: [.newDevice, .deviceKind, .size],
            meaning: "one more device, with SIZE bytes of memory",
            play: { call throws(HMMError) in
                guard case .device(let device) = call.statement.operands[0] else { call.wrongOperand(0) }
                _ = try call.player.devices.device(device)
                return .ok
            }, isOutsideRaces: true),
    ]
}

extension Call {
    fileprivate func map() throws(HMMError) -> StatementResult {
        guard case .newRegion(let region) = statement.operands[0], case .pages(let count) = statement.operands[1],
            case .mapOptions(let options) = statement.operands[3]
        else { wrongOperand(0) }
        let start = process.start(of: region)
        let pages = start..<start.advanced(by: count)
        try process.space.map(pages, protection: protection(2), kind: try mappingKind(options, pageCount: count))
        return .ok
    }

    private func mappingKind(_ options: MapOptions, pageCount: Int) throws(HMMError) -> MappingKind {
        if options.contains(.hugetlb) { return .hugetlb(shared: options.contains(.shared)) }
        // The recordings ran with huge pages on request only; a region says which it is when it is mapped.
        let huge = options.contains(.hugepage)
        guard options.contains(.file) else {
            return options.contains(.shared) ? .sharedAnonymous : .anonymous(huge: huge)
        }
        let file = try player.machine.makeFile(pageCount: pageCount)
        return options.contains(.shared) ? .sharedFile(file, offset: 0) : .privateFile(file, offset: 0)
    }

    fileprivate func move() throws(HMMError) -> StatementResult {
        guard case .move(let region, to: let target) = statement.operands[0] else { wrongOperand(0) }
        let start = process.start(of: region)
        let pages = start..<start.advanced(by: player.scenario.regions[region.index].pageCount)
        try process.space.remap(pages, to: target)
        process.setStart(of: region, target)
        return .ok
    }
}
