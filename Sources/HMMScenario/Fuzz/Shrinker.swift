import HMM

/// Makes a scenario that fails small: fewer statements, smaller regions, smaller ranges, as long as it fails.
package struct Shrinker {
    private var best: Scenario
    private let fails: (Scenario) -> Bool
    private var attempts = 0
    private let attemptLimit: Int

    /// The smallest scenario found for which `fails` is true, as it is for `scenario`. The default of `attempts` is
    /// enough for scenarios of the generator; whoever has larger ones gets what was reached.
    package static func shrink(
        _ scenario: Scenario, attempts: Int = 4000, while fails: (Scenario) -> Bool
    ) -> Scenario {
        withoutActuallyEscaping(fails) { fails in
            var shrinker = Shrinker(best: scenario, attemptLimit: attempts, fails: fails)
            shrinker.run()
            return shrinker.best
        }
    }

    private init(best: Scenario, attemptLimit: Int, fails: @escaping (Scenario) -> Bool) {
        self.best = best
        self.attemptLimit = attemptLimit
        self.fails = fails
    }

    private mutating func run() {
        var size = -1
        while size != best.text.utf8.count, attempts < attemptLimit {
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
        guard attempts < attemptLimit, let parsed = try? Parser.parse(scenario.text), parsed.count == 1 else {
            return false
        }
        attempts += 1
        guard fails(parsed[0]) else { return false }
        best = parsed[0]
        return true
    }

    /// Tries the scenario with some statements left out: those for which `stays` is false, by their place in the text.
    private mutating func attempt(keeping stays: (Int, Statement) -> Bool) -> Bool {
        attempt(best.mapStatements { stays($0, $1) ? $1 : nil })
    }

    private mutating func dropProcesses() {
        for index in best.processes.indices.reversed() where index > 0 {
            guard index < best.processes.count else { continue }
            let id = ProcessID(index: index)
            _ = attempt(keeping: { $1.process != id && !$1.operands.contains(.process(id)) })
        }
    }

    private mutating func dropRegions() {
        for index in best.regions.indices.reversed() where index < best.regions.count {
            let id = RegionID(index: index)
            _ = attempt(keeping: { !$1.operands.contains { $0.region == id } })
        }
    }

    private mutating func dropStatements() {
        var length = best.statements.count / 2
        while length > 0 {
            var end = best.statements.count
            while end > 0 {
                let dropped = max(0, end - length)..<end
                _ = attempt(keeping: { place, _ in !dropped.contains(place) })
                end = min(dropped.lowerBound, best.statements.count)
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
                let narrow = best.mapStatements { place, statement in
                    guard place == index else { return statement }
                    var statement = statement
                    statement.operands[0] = .range(RegionRange(region: range.region, part: .pages(part)))
                    return statement
                }
                if attempt(narrow) { break }
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
    /// The scenario with each statement replaced, or left out for nil. `transform` gets its place in the text. A group
    /// without statements goes, and what is left of a race with one group runs alone.
    fileprivate func mapStatements(_ transform: (Int, Statement) -> Statement?) -> Scenario {
        var scenario = self
        var place = 0
        func next(_ statement: Statement) -> Statement? {
            defer { place += 1 }
            return transform(place, statement)
        }
        scenario.steps = steps.flatMap { step -> [Step] in
            switch step {
            case .statement(let statement): return next(statement).map { [.statement($0)] } ?? []
            case .race(var race):
                for index in race.groups.indices {
                    race.groups[index].statements = race.groups[index].statements.compactMap(next)
                }
                race.groups.removeAll { $0.statements.isEmpty }
                return race.groups.count > 1 ? [.race(race)] : race.statements.map { .statement($0) }
            }
        }
        return scenario
    }

    /// The scenario with a smaller region: ranges are cut, and statements that have nothing left go.
    fileprivate func withRegion(_ id: RegionID, pageCount: Int) -> Scenario {
        mapStatements { _, statement in
            var statement = statement
            if statement.operands.first == .newRegion(id) { statement.operands[1] = .pages(pageCount) }
            if case .range(let range)? = statement.operands.first, range.region == id, range.part != .whole {
                let pages = range.pages(in: self).clamped(to: 0..<pageCount)
                guard !pages.isEmpty else { return nil }
                statement.operands[0] = .range(RegionRange(region: id, part: .pages(pages)))
            }
            return statement
        }
    }
}
