import HMM
import HMMScenario

/// Which values the statements of a scenario may read.
///
/// Each page is an object of its own, and every statement does to it one thing at one moment between its beginning and
/// its end. So what is read of a page must be what is read when the statements of the races are played one after the
/// other in some order: one that keeps the order within each thread, and of statements that did not overlap. The orders
/// are played by the same player on a machine of their own, and what came out is compared page by page.
///
/// A statement that failed may have done its work to a page or not: both are tried. What a fault of a moved or unmapped
/// region answers depends on when the address was looked up, so it counts as failed too; and who unmaps a region that
/// another thread moves may find nothing where it was. MADV_FREE too may take a page's contents or leave them.
///
/// Whether a device can migrate a page, or write to it, depends on where the page is, and somebody who has faulted but
/// not yet read or written may have put it elsewhere. So where a device did what it fails to do in a serial order, a
/// CPU stands in for it there: what counts is what the page holds, and what it may be used for.
final class SerialOrders {
    /// When a statement ran, in events of the schedule.
    struct Span: Hashable {
        var begin: Int
        var end: Int
    }

    private struct Page: Hashable {
        var region: RegionID
        var number: Int
    }

    private typealias Values = [Int: StatementResult]

    private static let orderLimit = 512
    /// ENOENT is what 6.12's test driver answers to a migration after which a page has no entry.
    private static let errorsOfContention: Set<String> = ["EAGAIN", "EBUSY", "ENOENT"]
    private let scenario: Scenario
    private let machine: Machine
    /// The statements of all races in every order that keeps that of each thread; empty if there are too many.
    private let orders: [[Int]]
    private let pages: [Page]
    private let statements: [Int: Statement]
    private let moved: Set<RegionID>
    /// Regions that a race moves.
    private let movedInRaces: Set<RegionID>
    /// What was read in an order, with some statements left out, and `standIn(line)` for a CPU in a device's place.
    private var played: [[Int]: Values] = [:]
    /// What was found to be right before.
    private var accepted: Set<Int> = []

    /// `configuration`: that of the machines which the orders are compared with.
    init(_ scenario: Scenario, _ configuration: MachineConfiguration) throws(HMMError) {
        self.scenario = scenario
        machine = try Machine(configuration)
        orders = Self.orders(of: scenario, limit: Self.orderLimit)
        let all = scenario.steps.flatMap(\.statements)
        statements = Dictionary(all.map { ($0.line, $0) }, uniquingKeysWith: { first, _ in first })
        moved = Set(all.filter { $0.verb.word == "move" || $0.verb.word == "unmap" }.compactMap(\.region))
        movedInRaces = Set(
            scenario.steps.flatMap { step -> [Statement] in
                if case .race(let race) = step { race.statements } else { [] }
            }.filter { $0.verb.word == "move" }.compactMap(\.region))
        var seen: Set<Page> = []
        var pages: [Page] = []
        for statement in all {
            for page in Self.pages(of: statement, scenario) where seen.insert(page).inserted { pages.append(page) }
        }
        self.pages = pages
    }

    /// What was read that no legal order explains, in words; nil if all is well.
    func objection(to outcomes: [StatementOutcome], _ spans: [Int: Span]) -> String? {
        if let torn = outcomes.first(where: { $0.result.isTorn }) {
            return "line \(torn.statement.line): a page is torn: \(torn.result.text)"
        }
        if orders.isEmpty { return nil }
        var hasher = Hasher()
        for outcome in outcomes {
            hasher.combine(outcome.result)
            hasher.combine(spans[outcome.statement.line])
        }
        let key = hasher.finalize()
        if accepted.contains(key) { return nil }
        var results: Values = [:]
        for outcome in outcomes { results[outcome.statement.line] = outcome.result }
        let legal = orders.filter { Self.keeps($0, spans) }
        for page in pages where !legal.contains(where: { explains($0, page, results) }) {
            return describe(page, outcomes)
        }
        for outcome in outcomes where !isExplained(outcome, legal) {
            return "line \(outcome.statement.line) failed in no order of the statements: \(outcome.result.text)"
        }
        accepted.insert(key)
        return nil
    }

    // MARK: One order

    private static func keeps(_ order: [Int], _ spans: [Int: Span]) -> Bool {
        for (place, line) in order.enumerated() {
            guard let span = spans[line] else { continue }
            for later in order[(place + 1)...] {
                if let other = spans[later], other.end < span.begin { return false }
            }
        }
        return true
    }

    private func explains(_ order: [Int], _ page: Page, _ results: Values) -> Bool {
        let doubtful = order.filter { line in
            guard let statement = statements[line], let result = results[line] else { return false }
            return statement.touches(page.region, page.number, scenario) && isDoubtful(result, statement, page)
        }
        for subset in 0..<(1 << min(doubtful.count, 4)) {
            let omitted = Set(doubtful.indices.filter { subset & (1 << $0) != 0 }.map { doubtful[$0] })
            let left = order.filter { !omitted.contains($0) }
            let values = play(left)
            if agree(values, results, page, Set(doubtful)) { return true }
            let replaced = left.map { isRefused($0, results, values) ? Self.standIn($0) : $0 }
            if replaced != left, agree(play(replaced), results, page, Set(doubtful)) { return true }
        }
        return false
    }

    /// Whether a device did what it fails to do in the serial order that `values` are of.
    private func isRefused(_ line: Int, _ results: Values, _ values: Values) -> Bool {
        guard let statement = statements[line], statement.verb.actor == .device, let result = results[line] else {
            return false
        }
        return !result.isError && values[line]?.isError ?? false
    }

    /// In an order: a CPU does to the pages of this line what the device would.
    private static func standIn(_ line: Int) -> Int { -line }

    /// Errors that say that somebody was in the way come from no order; all others must be had in one.
    private func isExplained(_ outcome: StatementOutcome, _ legal: [[Int]]) -> Bool {
        guard case .error(let name) = outcome.result, !Self.errorsOfContention.contains(name) else { return true }
        if let region = outcome.statement.region, moved.contains(region) { return true }
        return legal.contains { play($0)[outcome.statement.line]?.isError ?? false }
    }

    /// Whether the statement may have left the page alone.
    private func isDoubtful(_ result: StatementResult, _ statement: Statement, _ page: Page) -> Bool {
        if result.isError { return true }
        // What is free to go may be gone at once (from swap) or stay until memory is short.
        if statement.operands.contains(.advice(.free)) { return true }
        if statement.verb.word == "unmap", movedInRaces.contains(page.region) { return true }
        guard moved.contains(page.region), let value = Self.value(result, statement, page, scenario) else {
            return false
        }
        return value == .segmentationFault || value == .busError
    }

    private func agree(_ expected: Values, _ results: Values, _ page: Page, _ doubtful: Set<Int>) -> Bool {
        for (line, result) in results where !doubtful.contains(line) {
            guard let statement = statements[line],
                let value = Self.value(result, statement, page, scenario)
            else { continue }
            if value != expected[line].flatMap({ Self.value($0, statement, page, scenario) }) { return false }
        }
        return true
    }

    private func play(_ order: [Int]) -> Values {
        if let known = played[order] { return known }
        var options = Player.Options()
        options.machine = machine
        var serial = scenario
        serial.steps = scenario.steps.flatMap { step -> [HMMScenario.Step] in
            guard case .race(let race) = step else { return [step] }
            let lines = Set(race.statements.map(\.line))
            return order.filter { lines.contains(abs($0)) }.compactMap(statement).map { .statement($0) }
        }
        var values: Values = [:]
        do throws(HMMError) {
            for outcome in try Player(serial, options).play().statements {
                values[outcome.statement.line] = outcome.result
            }
        } catch {
            preconditionFailure("no machine for the serial orders: \(error)")
        }
        // Zones of devices that are gone come back, or a later order finds no room for its own.
        machine.recycle()
        played[order] = values
        return values
    }

    /// The statement of a line; for `standIn(line)`, a read or write by the CPU in its place.
    private func statement(_ line: Int) -> Statement? {
        guard var statement = statements[abs(line)] else { return nil }
        guard line < 0 else { return statement }
        let word = statement.verb.word == "write" ? "write" : "read"
        guard let verb = Verb.all.first(where: { $0.actor == .cpu && $0.word == word }) else { return nil }
        statement.verb = verb
        statement.device = nil
        return statement
    }

    // MARK: Pages

    private static func pages(of statement: Statement, _ scenario: Scenario) -> [Page] {
        guard let range = statement.range else { return [] }
        return range.pages(in: scenario).map { Page(region: range.region, number: $0) }
    }

    /// What the statement says that the page holds.
    private static func value(
        _ result: StatementResult, _ statement: Statement, _ page: Page, _ scenario: Scenario
    ) -> PageValue? {
        guard let range = statement.range, range.region == page.region else { return nil }
        let pages = range.pages(in: scenario)
        guard pages.contains(page.number) else { return nil }
        switch result {
        case .values(let values), .request(_, values: .some(let values)): return values[page.number - pages.lowerBound]
        case .ok:
            // A write says which pages it wrote only if one of them faulted.
            guard statement.verb.actor == .cpu, case .seed(let seed)? = statement.operands.last else { return nil }
            return .seed(seed)
        default: return nil
        }
    }

    private func describe(_ page: Page, _ outcomes: [StatementOutcome]) -> String {
        let reads = outcomes.compactMap { outcome -> String? in
            Self.value(outcome.result, outcome.statement, page, scenario).map {
                "line \(outcome.statement.line) saw \($0.text)"
            }
        }
        let name = scenario.regions[page.region.index].name
        return "no order of the statements explains what was read of \(name)[\(page.number)]: "
            + reads.joined(separator: ", ")
    }

    // MARK: Orders

    /// All ways to put the statements of the races one after the other, as their lines.
    private static func orders(of scenario: Scenario, limit: Int) -> [[Int]] {
        var orders: [[Int]] = [[]]
        for step in scenario.steps {
            guard case .race(let race) = step else { continue }
            let shuffles = shuffles(race.groups.map { $0.statements.map(\.line) })
            guard orders.count * shuffles.count <= limit else { return [] }
            orders = orders.flatMap { order in shuffles.map { order + $0 } }
        }
        return orders
    }

    private static func shuffles(_ lists: [[Int]]) -> [[Int]] {
        if lists.allSatisfy(\.isEmpty) { return [[]] }
        return lists.indices.flatMap { index -> [[Int]] in
            guard let first = lists[index].first else { return [] }
            var rest = lists
            rest[index].removeFirst()
            return shuffles(rest).map { [first] + $0 }
        }
    }
}

extension Statement {
    /// The pages that it works on.
    fileprivate var range: RegionRange? {
        for case .range(let range) in operands { return range }
        return nil
    }

    /// The region that it works on, or moves.
    fileprivate var region: RegionID? {
        for case .move(let region, _) in operands { return region }
        return range?.region
    }

    fileprivate func touches(_ region: RegionID, _ page: Int, _ scenario: Scenario) -> Bool {
        guard let range, range.region == region else { return false }
        return range.pages(in: scenario).contains(page)
    }
}
