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
                try call.process.unmap(call.range(0).pages)
                return .ok
            }),
        Verb(
            actor: .process, word: "protect", parameters: [.range, .protection], meaning: "mprotect",
            play: { call throws(HMMError) in
                try call.process.protect(call.range(0).pages, call.protection(1))
                return .ok
            }),
        Verb(
            actor: .process, word: "advise", parameters: [.range, .advice], meaning: "madvise",
            play: { call throws(HMMError) in
                guard case .advice(let advice) = call.statement.operands[1] else { call.wrongOperand(1) }
                try call.process.advise(call.range(0).pages, advice)
                return .ok
            }),
        Verb(
            actor: .process, word: "move", parameters: [.movedRegion], meaning: "mremap to another address",
            play: { call throws(HMMError) in try call.move() }),
        Verb(
            actor: .process, word: "fork", parameters: [.newProcess], meaning: "a child process",
            play: { call throws(HMMError) in
                guard case .process(let child) = call.statement.operands[0] else { call.wrongOperand(0) }
                try call.process.fork(child)
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
                _ = try call.process.devices.device(device)
                return .ok
            }, isOutsideRaces: true),
    ]
}

extension Call {
    fileprivate func map() throws(HMMError) -> StatementResult {
        guard case .newRegion(let region) = statement.operands[0], case .pages(let count) = statement.operands[1],
            case .mapOptions(let options) = statement.operands[3]
        else { wrongOperand(0) }
        try process.map(region, pageCount: count, protection(2), options)
        return .ok
    }

    fileprivate func move() throws(HMMError) -> StatementResult {
        guard case .move(let region, to: let target) = statement.operands[0] else { wrongOperand(0) }
        try process.move(region, pageCount: scenario.regions[region.index].pageCount, to: target)
        return .ok
    }
}
