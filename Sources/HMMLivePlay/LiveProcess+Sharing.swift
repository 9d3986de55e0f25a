import HMM
import HMMLive
import HMMScenario

// Pages that this process has in common with others: shared since a fork, of shared memory, or of a file. What others
// do with them happens here too, and mirrors hear of it.

extension LiveProcess {
    /// The pages went to a device, or home, in another process.
    func follow(_ move: SharedMove) -> StatementResult {
        guard let mapped = mapped(move.pages.region) else { return .ok }
        do throws(HMMError) {
            for index in move.pages.pages {
                let page = mapped.pages.lowerBound.advanced(by: index)
                try follow(index, page..<page.advanced(by: 1), in: move.pages.region, to: move.device)
            }
        } catch {
            return StatementResult(error)
        }
        noteMoves()
        return .ok
    }

    private func follow(_ index: Int, _ page: PageRange, in region: Int, to target: Int?) throws(HMMError) {
        switch (shared.place(of: index, in: region), target) {
        case (.own, _), (.home, nil): return
        case (.device(let device), nil):
            try devices.device(DeviceID(index: device)).followHome(page, in: space)
        case (_, let device?): try devices.device(DeviceID(index: device)).follow(page, in: space)
        }
    }

    /// What others made happen here is no news to them.
    func noteMoves() { _ = shared.effects(in: self) }

    // MARK: The reverse map

    /// Tells mirrors what a walk of the reverse map tells them: the pages are about to be unmapped. It asks for the
    /// mapping only, not for what is in the page tables.
    func walk(_ walked: RegionPages) {
        guard let mapped = mapped(walked.region) else { return }
        space.deliverInvalidations()
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        let first = mapped.pages.lowerBound
        var rest = first.advanced(by: walked.pages.lowerBound)..<first.advanced(by: walked.pages.upperBound)
        while !rest.isEmpty, let mapping = space.mapping(endingAfter: rest.lowerBound) {
            guard let part = mapping.pages.intersection(rest) else { return }
            Invalidation.begin(space.notifiers, InvalidationRange(.clear, part)).end()
            rest = part.upperBound..<rest.upperBound
        }
    }

    /// Before a migration of `pages`: those of `twins`, which others map too, that it takes out of the page tables of
    /// everybody, whether they can move or not. Mirrors hear of it here, the others are told. A mapping that may not
    /// be read ends a migration.
    func willCollect(_ twins: [Twin], in region: Int, _ pages: Range<Int>) -> [LiveEffect] {
        guard let mapped = mapped(region), !twins.isEmpty else { return [] }
        var collected = RunsOfPages<Bool>(region)
        for index in pages.lowerBound..<readableEnd(of: pages, mapped.pages.lowerBound) {
            guard let twin = twins.first(where: { $0.pages.contains(index) }) else { continue }
            switch Sight(of: mapped.pages.lowerBound.advanced(by: index), in: space) {
            case .home, .file: collected.append(index, twin.isHeard)
            case .nothing, .exclusive, .device: continue
            }
        }
        for run in collected.runs where run.value { walk(run.pages) }
        return collected.runs.map { .collected($0.pages) }
    }

    private func readableEnd(of pages: Range<Int>, _ first: PageNumber) -> Int {
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        var index = pages.lowerBound
        while index < pages.upperBound {
            let page = first.advanced(by: index)
            guard let mapping = space.mapping(endingAfter: page), mapping.pages.contains(page),
                mapping.protection.contains(.read)
            else { break }
            index = min(pages.upperBound, first.distance(to: mapping.pages.upperBound))
        }
        return index
    }

    /// After a statement: pages came home that others map too, so the reverse map was walked here as well. The way home
    /// of a page that nobody else maps leaves the owner's entry of the page behind it; a walk does not. What the
    /// statement itself has mapped since, in `kept`, stays.
    func didBringHome(_ moves: [SharedMove], twins: [Twin], kept: Range<Int>) {
        let heard = twins.filter(\.isHeard).map(\.pages)
        for move in moves where move.device == nil {
            guard let mapped = mapped(move.pages.region) else { continue }
            for behind in move.pages.pages.map({ $0 + 1 }) where heard.contains(where: { $0.contains(behind - 1) }) {
                guard !kept.contains(behind), behind < mapped.pages.pageCount else { continue }
                let page = mapped.pages.lowerBound.advanced(by: behind)
                devices.openMirrors.forEach { $0.forgetPage(page) }
            }
        }
    }

    /// Which pages of a file or of shared memory are mapped.
    func filePages(_ pages: RegionPages) -> [LiveEffect] {
        guard let mapped = mapped(pages.region) else { return [] }
        var runs = RunsOfPages<Bool>(pages.region)
        for index in pages.pages {
            if case .file = Sight(of: mapped.pages.lowerBound.advanced(by: index), in: space) {
                runs.append(index, true)
            }
        }
        return runs.runs.map { .mapped($0.pages) }
    }
}
