import HMM

extension Shadow {
    /// Takes note of a statement, and answers what is wrong with its result.
    mutating func check(_ outcome: StatementOutcome) -> String? {
        let statement = outcome.statement
        guard processes[statement.process.index] != nil else {
            return outcome.result == .error("ESRCH") ? nil : "the process is not there"
        }
        return switch statement.verb.actor {
        case .process: checkProcess(statement, outcome.result)
        case .cpu: checkCPU(statement, outcome.result)
        case .device: checkDevice(statement, outcome.result)
        }
    }

    func span(_ statement: Statement) -> Span {
        guard case .range(let range) = statement.operands[0] else { preconditionFailure("no range") }
        return Span(
            process: statement.process.index, region: range.region.index, pages: range.pages(in: scenario))
    }

    static func expect(_ result: StatementResult, _ expected: StatementResult) -> String? {
        result == expected ? nil : "'\(expected.text)' was expected"
    }

    static func expect(_ result: StatementResult, _ error: String?) -> String? {
        expect(result, error.map { .error($0) } ?? .ok)
    }

    // MARK: CPUs

    private mutating func checkCPU(_ statement: Statement, _ result: StatementResult) -> String? {
        let span = span(statement)
        guard statement.verb.word == "write", case .seed(let seed) = statement.operands[1] else {
            guard case .values(let values) = result else { return "values were expected" }
            return compare(values, with: span)
        }
        let region = region(span)
        let expected = RunLengths(span.pages.map { page -> PageValue in
            region.isWritable(page) ? .seed(seed) : .segmentationFault
        })
        for page in span.pages where region.isWritable(page) { write(span, page, seed, byDevice: false) }
        let isWhole = !expected.contains { $0 == .segmentationFault }
        return Self.expect(result, isWhole ? .ok : .values(expected))
    }

    // MARK: Processes

    private mutating func checkProcess(_ statement: Statement, _ result: StatementResult) -> String? {
        let process = statement.process.index
        switch statement.verb.word {
        case "map":
            map(statement)
            return Self.expect(result, .ok)
        case "fork":
            guard case .process(let child) = statement.operands[0] else { return "fork without a name" }
            processes[child.index] = processes[process]
            return Self.expect(result, .ok)
        case "exit":
            processes[process] = nil
            return Self.expect(result, .ok)
        case "move":
            guard case .move(let region, _) = statement.operands[0] else { return "move without a region" }
            let mayMove = processes[process]![region.index].mayBeOneMapping
            return result == .error("EFAULT") || (mayMove && result == .ok) ? nil : "this move cannot do that"
        case "unmap":
            let span = span(statement)
            if cutsHugetlb(span), region(span).isMapped(span.pages.lowerBound) { return Self.expect(result, "EINVAL") }
            update(span) { region in for page in span.pages { region.protections[page] = nil } }
            forgetUnmapped(span)
            return Self.expect(result, .ok)
        case "protect": return checkProtect(statement, result)
        case "advise": return checkAdvice(statement, result)
        case "device": return Self.expect(result, .ok)
        default: preconditionFailure("the shadow does not know '\(statement.verb.word)'")
        }
    }

    private mutating func map(_ statement: Statement) {
        guard case .newRegion(let id) = statement.operands[0], case .pages(let count) = statement.operands[1],
            case .protection(let protection) = statement.operands[2],
            case .mapOptions(let options) = statement.operands[3]
        else { preconditionFailure("map without its operands") }
        var region = ShadowRegion(pageCount: count)
        region.options = options
        region.protections = Array(repeating: protection, count: count)
        if options.contains(.shared) {
            region.object = objects.count
            objects.append(ShadowObject(pageCount: count))
        }
        processes[statement.process.index]![id.index] = region
    }

    /// Private contents go with the mapping.
    private mutating func forgetUnmapped(_ span: Span) {
        update(span) { region in for page in span.pages { region.own[page] = .zero } }
    }

    private func cutsHugetlb(_ span: Span) -> Bool {
        let size = 1 << Geometry.pmdOrder
        return region(span).isHugetlb
            && (!span.pages.lowerBound.isMultiple(of: size) || !span.pages.upperBound.isMultiple(of: size))
    }

    private mutating func checkProtect(_ statement: Statement, _ result: StatementResult) -> String? {
        guard case .protection(let protection) = statement.operands[1] else { return "protect without rights" }
        let span = span(statement)
        let hole = span.pages.first { !region(span).isMapped($0) }
        if hole != span.pages.lowerBound, cutsHugetlb(span) { return Self.expect(result, "EINVAL") }
        // Parts before the hole are done, and nothing after it.
        update(span) { region in
            for page in span.pages.lowerBound..<(hole ?? span.pages.upperBound) {
                region.protections[page] = protection
                region.hasUnclearRights[page] = false
            }
        }
        return Self.expect(result, hole == nil ? nil : "ENOMEM")
    }

    // MARK: Advice

    private mutating func checkAdvice(_ statement: Statement, _ result: StatementResult) -> String? {
        guard case .advice(let advice) = statement.operands[1] else { return "advise without advice" }
        let span = span(statement)
        let region = region(span)
        let holeError = span.pages.allSatisfy(region.isMapped) ? nil : "ENOMEM"
        switch advice {
        case .populateRead, .populateWrite:
            let isAllowed = advice == .populateRead ? region.isReadable : region.isWritable
            let first = span.pages.first { !isAllowed($0) }
            return Self.expect(result, first.map { region.isMapped($0) ? "EINVAL" : "ENOMEM" })
        case .hugepage, .nohugepage: return Self.expect(result, holeError)
        case .dontneed:
            guard let part = forgettable(span) else { return Self.expect(result, "EINVAL") }
            forget(part, fromFile: false)
            return Self.expect(result, holeError)
        case .remove:
            guard span.pages.contains(where: region.isMapped) else { return Self.expect(result, "ENOMEM") }
            guard region.isShared else {
                let hasFile = !region.options.isDisjoint(with: [.file, .hugetlb])
                return Self.expect(result, hasFile ? "EACCES" : "EINVAL")
            }
            forget(span, fromFile: true)
            return Self.expect(result, holeError)
        case .pageout:
            if region.isHugetlb, span.pages.contains(where: region.isMapped) { return Self.expect(result, "EINVAL") }
            noteWritesLostByPageOut(span)
            return Self.expect(result, holeError)
        case .free: preconditionFailure("contents after MADV_FREE are not known to anybody")
        case .collapse:
            if case .error = result { return nil }
            return Self.expect(result, .ok)
        }
    }

    /// What MADV_DONTNEED forgets: hugetlb pages only as a whole. Nil: the range begins within one.
    private func forgettable(_ span: Span) -> Span? {
        let size = 1 << Geometry.pmdOrder
        guard region(span).isHugetlb else { return span }
        guard span.pages.lowerBound.isMultiple(of: size) || !region(span).isMapped(span.pages.lowerBound) else {
            return nil
        }
        var part = span
        part.pages = span.pages.lowerBound..<max(span.pages.lowerBound, span.pages.upperBound / size * size)
        return part
    }

    /// `DmirrorWarts.writesStayClean`: whether such a page was clean depends on how it was mapped, so it is not known
    /// any more.
    private mutating func noteWritesLostByPageOut(_ span: Span) {
        let region = region(span)
        guard profile.testDriverHasWarts, let object = region.object else { return }
        for page in span.pages where region.isMapped(page) && objects[object].isWrittenByDevice[page] {
            objects[object].pages[page] = .anything
        }
    }
}
