import HMM

extension Shadow {
    mutating func checkDevice(_ statement: Statement, _ result: StatementResult) -> String? {
        switch statement.verb.word {
        case "open", "close": return Self.expect(result, .ok)
        case "release":
            // In 6.12 a coherent page that is exclusive to another device is no mapping, so that nothing moves it.
            let isCoherent = statement.device.map { scenario.devices[$0.index].kind == .coherent } ?? false
            let mayBeHeld = profile.exclusiveConvertsFolio && isCoherent
            return mayBeHeld && result == .error("EBUSY") ? nil : Self.expect(result, .ok)
        case "check-exclusive":
            return result == .ok || result == .error("EPERM") ? nil : "'ok' or 'error EPERM' was expected"
        default: break
        }
        let span = span(statement)
        switch statement.verb.word {
        case "read": return checkRead(span, result)
        case "write":
            guard case .seed(let seed) = statement.operands[1] else { return "write without a seed" }
            return checkWrite(span, seed, result)
        case "migrate": return checkMigrate(span, result)
        case "evict": return checkEvict(span, result)
        case "exclusive": return checkExclusive(span, result)
        case "snapshot": return checkSnapshot(span, result)
        default: preconditionFailure("the shadow does not know '\(statement.verb.word)'")
        }
    }

    private mutating func checkValues(_ span: Span, _ result: StatementResult) -> String? {
        guard case .request(let counts, values: let values?) = result else { return "values were expected" }
        if counts.first != .init("pages", span.pages.count) { return "not all pages were counted" }
        return compare(values, with: span)
    }

    private func canReadAll(_ span: Span) -> Bool { span.pages.allSatisfy(region(span).isReadable) }
    private func canWriteAll(_ span: Span) -> Bool { span.pages.allSatisfy(region(span).isWritable) }

    private mutating func checkRead(_ span: Span, _ result: StatementResult) -> String? {
        canReadAll(span) ? checkValues(span, result) : Self.expect(result, "EFAULT")
    }

    /// The first page, in the order of addresses, that may not be written says which error it is. Pages before it, and
    /// those that had an entry, may be written.
    private mutating func checkWrite(_ span: Span, _ seed: UInt32, _ result: StatementResult) -> String? {
        let region = region(span)
        if case .error(let name) = result {
            let first = span.pages.first { !region.isWritable($0) }
            let expected = first.map { region.isReadable($0) ? "EPERM" : "EFAULT" }
            // The wart W3: a read-only page of the device's own memory is never made writable.
            let isOwnReadOnly = profile.testDriverHasWarts && name == "EFAULT"
            guard name == expected || isOwnReadOnly || isComingHome(span, name) else {
                return "'\(expected ?? "ok")' was expected"
            }
            writeInPart(span, seed)
            for page in span.pages where region.isWritable(page) {
                if let object = region.object { objects[object].isWrittenByDevice[page] = true }
            }
            return nil
        }
        guard canWriteAll(span) else { return "a page may not be written" }
        for page in span.pages { write(span, page, seed, byDevice: true) }
        guard case .request(let counts, values: nil) = result, counts.first == .init("pages", span.pages.count) else {
            return "not all pages were counted"
        }
        return nil
    }

    /// Without the wart W3, read-only pages of the device's own memory come home, and the mapping decides. What a page
    /// behind them answers is known before that.
    private func isComingHome(_ span: Span, _ error: String) -> Bool {
        let region = region(span)
        return !profile.testDriverHasWarts && error == "EFAULT" && !canReadAll(span)
            && span.pages.contains { region.isReadable($0) && !region.isWritable($0) }
    }

    private mutating func checkMigrate(_ span: Span, _ result: StatementResult) -> String? {
        guard canReadAll(span), !region(span).isHugetlb else { return Self.expect(result, "EINVAL") }
        // The wart W4: what the test driver answers depends on its table.
        if profile.testDriverHasWarts, result == .error("ENOENT") { return nil }
        return checkValues(span, result)
    }

    private func checkEvict(_ span: Span, _ result: StatementResult) -> String? {
        guard canReadAll(span), !region(span).isHugetlb else { return Self.expect(result, "EINVAL") }
        guard case .request(let counts, values: nil) = result, counts.count == 1, counts[0].name == "pages",
            0...span.pages.count ~= counts[0].value
        else { return "a count of pages was expected" }
        return nil
    }

    private mutating func checkExclusive(_ span: Span, _ result: StatementResult) -> String? {
        if case .error(let name) = result {
            if profile.exclusiveConvertsFolio { return name == "EBUSY" ? nil : "'error EBUSY' was expected" }
            let region = region(span)
            let mayHave = canWriteAll(span) && !region.isShared && !region.isHugetlb
            return mayHave ? "every page can be had" : nil
        }
        guard canWriteAll(span), !region(span).isHugetlb, !region(span).isShared else {
            return "a page cannot be exclusive"
        }
        return checkValues(span, result)
    }

    private func checkSnapshot(_ span: Span, _ result: StatementResult) -> String? {
        guard case .snapshot(let bytes) = result, bytes.count == span.pages.count else {
            return "a byte a page was expected"
        }
        var page = span.pages.lowerBound
        for run in bytes.runs {
            for _ in 0..<run.count {
                let isReadable = region(span).isReadable(page)
                if isReadable == (run.value == 0xff) { return "page \(page) \(isReadable ? "can" : "cannot") be seen" }
                page += 1
            }
        }
        return nil
    }
}
