import HMM

extension Shadow {
    /// An allocation failed in the statement, which answered an error: what may be different now.
    ///
    /// Only contents that the statement itself writes or forgets, and rights that it changes, may be in between;
    /// mapping, unmapping, moving and forking happen as a whole or not at all.
    mutating func noteFailure(of outcome: StatementOutcome) {
        let statement = outcome.statement
        guard processes[statement.process.index] != nil else { return }
        switch (statement.verb.actor, statement.verb.word) {
        case (.cpu, "write"), (.device, "write"):
            guard case .seed(let seed) = statement.operands[1] else { return }
            writeInPart(span(statement), seed)
        case (.process, "protect"):
            let span = span(statement)
            update(span) { region in
                for page in span.pages where region.isMapped(page) { region.hasUnclearRights[page] = true }
            }
        case (.process, "advise"):
            guard case .advice(let advice) = statement.operands[1] else { return }
            if advice == .dontneed || advice == .remove {
                forget(span(statement), fromFile: advice == .remove, isSure: false)
            }
        default: break
        }
    }
}
