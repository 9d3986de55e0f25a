import HMMScenario

// What the reverse map has to do with a statement.

extension Statement {
    /// The region of the statement's range, and its pages there.
    func range(in scenario: Scenario) -> RegionPages? {
        guard case .range(let range)? = operands.first else { return nil }
        return RegionPages(region: range.region.index, pages: range.pages(in: scenario))
    }

    /// The region that the statement maps, if it is of shared memory or of a file.
    var fileRegion: Int? {
        guard case .newRegion(let region)? = operands.first, case .mapOptions(let options)? = operands.last,
            !options.isDisjoint(with: [.shared, .file])
        else { return nil }
        return region.index
    }

    /// Pages are taken out of page tables to go to a device.
    var isMigration: Bool { device != nil && verb.word == "migrate" }

    /// The statement maps its range in a mirror when it is done.
    var maps: Bool { device != nil && ["read", "write", "exclusive", "migrate"].contains(verb.word) }
}
