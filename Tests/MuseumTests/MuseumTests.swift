import HMMExplorer
import Museum
import Testing

@Suite("Museum")
struct MuseumTests {
    @Test("names are unique, and every exhibit has a source and a story")
    func exhibitsAreLabelled() {
        let names = Museum.exhibits.map(\.name)
        #expect(Set(names).count == names.count)
        for exhibit in Museum.exhibits {
            #expect(!exhibit.source.isEmpty && !exhibit.story.isEmpty, "\(exhibit.name)")
        }
    }

    @Test("every bug is found, as what it was", arguments: Museum.exhibits.map(\.name))
    func bugIsFound(_ name: String) throws {
        let exhibit = try #require(Museum.exhibits.first { $0.name == name })
        let exploration = exhibit.explore(.asItWas, exhibit.options)
        let failure = try #require(exploration.failure, "not found in \(exploration.schedules) schedules")
        #expect(failure.kind == exhibit.kind, "\(failure.what)")
    }

    /// A part of what `hmm explore --museum` does: all schedules where there are at most so many, else the first ones.
    @Test("what was mended passes the same program", arguments: Museum.exhibits.map(\.name))
    func mendedPasses(_ name: String) throws {
        let exhibit = try #require(Museum.exhibits.first { $0.name == name })
        var options = exhibit.options
        options.schedules = exhibit.isExhaustive ? 2_000 : 500
        for strategy in exhibit.isExhaustive ? [.exhaustive] : [ExplorationStrategy.pct(3), .random] {
            options.strategy = strategy
            let exploration = exhibit.explore(.mended, options)
            #expect(exploration.failure == nil, "\(strategy): \(exploration.failure?.what ?? "")")
            let count = exploration.schedules + exploration.cutSchedules
            // Schedules that others stand for are cut, and not all of them are counted.
            #expect(exploration.isComplete || count > options.schedules / 2, "ended after \(count) schedules")
        }
    }
}
