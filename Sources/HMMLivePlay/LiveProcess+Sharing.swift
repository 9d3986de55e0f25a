import HMM
import HMMScenario

// Pages that this process shares with another since a fork, and what the other did with them.

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
}
