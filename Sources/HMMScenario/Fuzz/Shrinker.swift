import HMM

/// Makes a scenario that fails small: fewer statements, smaller regions, smaller ranges, as long as it fails.
package struct Shrinker {
    private var best: Scenario
    private let fails: (Scenario) -> Bool
    private var attempts = 0
    /// Enough for scenarios of the generator; whoever has larger ones gets what was reached.
    private static let attemptLimit = 4000

    /// The smallest scenario found for which `fails` is true, as it is for `scenario`, which has no races.
    package static func shrink(_ scenario: Scenario, while fails: (Scenario) -> Bool) -> Scenario {
        withoutActuallyEscaping(fails) { fails in
            var shrinker = Shrinker(best: scenario, fails: fails)
            shrinker.run()
            return shrinker.best
        }
    }

    private init(best: Scenario, fails: @escaping (Scenario) -> Bool) {
        self.best = best
        self.fails = fails
    }

    private mutating func run() {
        var size = -1
        while size != best.text.utf8.count, attempts < Self.attemptLimit {
            size = best.text.utf8.count
            dropProcesses()
            dropRegions()
            dropStatements()
            shrinkRegions()
            shrinkRanges()
        }
    }

    /// Tries a scenario made of these statements. Names that are used before they are made cannot be read again, so
    /// such a try fails by itself.
    private mutating func attempt(_ scenario: Scenario) -> Bool {
        guard attempts < Self.attemptLimit, let parsed = try? Parser.parse(scenario.text), parsed.count == 1 else {
            return false
        }
        attempts += 1
        guard fails(parsed[0]) else { return false }
        best = parsed[0]
        return true
    }

    private mutating func attempt(_ statements: [Statement]) -> Bool {
        guard !statements.isEmpty else { return false }
        var scenario = best
        scenario.steps = statements.map { .statement($0) }
        return attempt(scenario)
    }

    private mutating func dropProcesses() {
        for index in best.processes.indices.reversed() where index > 0 {
            guard index < best.processes.count else { continue }
            let id = ProcessID(index: index)
            _ = attempt(best.statements.filter { $0.process != id && !$0.operands.contains(.process(id)) })
        }
    }

    private mutating func dropRegions() {
        for index in best.regions.indices.reversed() where index < best.regions.count {
            let id = RegionID(index: index)
            _ = attempt(best.statements.filter { statement in !statement.operands.contains { $0.region == id } })
        }
    }

    private mutating func dropStatements() {
        var length = best.statements.count / 2
        while length > 0 {
            var end = best.statements.count
            while end > 0 {
                var statements = best.statements
                let start = max(0, end - length)
                statements.removeSubrange(start..<end)
                _ = attempt(statements)
                end = min(start, best.statements.count)
            }
            length /= 2
        }
    }

    private mutating func shrinkRegions() {
        for index in best.regions.indices {
            var size = 1
            while index < best.regions.count, size < best.regions[index].pageCount {
                if attempt(best.withRegion(RegionID(index: index), pageCount: size)) { break }
                size *= 2
            }
        }
    }

    private mutating func shrinkRanges() {
        for index in best.statements.indices {
            guard index < best.statements.count, case .range(let range)? = best.statements[index].operands.first else {
                continue
            }
            let pages = range.pages(in: best)
            guard pages.count > 1 else { continue }
            let middle = pages.lowerBound + pages.count / 2
            for part in [
                pages.lowerBound..<pages.lowerBound + 1, pages.upperBound - 1..<pages.upperBound,
                pages.lowerBound..<middle, middle..<pages.upperBound,
            ] {
                var statements = best.statements
                statements[index].operands[0] = .range(RegionRange(region: range.region, part: .pages(part)))
                if attempt(statements) { break }
            }
        }
    }
}

extension Operand {
    fileprivate var region: RegionID? {
        switch self {
        case .newRegion(let region), .move(let region, _): region
        case .range(let range): range.region
        default: nil
        }
    }
}

extension Scenario {
    /// The scenario with a smaller region: ranges are cut, and statements that have nothing left go.
    fileprivate func withRegion(_ id: RegionID, pageCount: Int) -> Scenario {
        var scenario = self
        scenario.steps = statements.compactMap { statement in
            var statement = statement
            if statement.operands.first == .newRegion(id) { statement.operands[1] = .pages(pageCount) }
            if case .range(let range)? = statement.operands.first, range.region == id, range.part != .whole {
                let pages = range.pages(in: self).clamped(to: 0..<pageCount)
                guard !pages.isEmpty else { return nil }
                statement.operands[0] = .range(RegionRange(region: id, part: .pages(pages)))
            }
            return .statement(statement)
        }
        return scenario
    }
}
