import HMMScenario

/// Which processes have a page in common: what one kernel knows by the reverse map of the folio.
struct ShareGroups {
    private struct Key: Hashable {
        var region: Int
        var page: Int
    }

    /// The group of each page that a process shares, by the process's number. A group is a number of its own.
    private var groups: [[Key: Int]]
    private var groupCount = 0

    init(processCount: Int) { groups = Array(repeating: [:], count: processCount) }

    mutating func share(_ pages: RegionPages, of parent: Int, with child: Int) {
        for page in pages.pages {
            let key = Key(region: pages.region, page: page)
            if groups[parent][key] == nil {
                groups[parent][key] = groupCount
                groupCount += 1
            }
            groups[child][key] = groups[parent][key]
        }
    }

    mutating func leave(_ pages: RegionPages, by process: Int) {
        for page in pages.pages { groups[process][Key(region: pages.region, page: page)] = nil }
    }

    mutating func leaveAll(by process: Int) { groups[process] = [:] }

    /// What each other process has of these pages in common with `process`.
    func others(_ move: SharedMove, of process: Int) -> [(process: Int, move: SharedMove)] {
        var all: [(process: Int, move: SharedMove)] = []
        for other in groups.indices where other != process {
            var run: Range<Int>?
            func flush() {
                if let run {
                    let pages = RegionPages(region: move.pages.region, pages: run)
                    all.append((other, SharedMove(pages: pages, device: move.device)))
                }
            }
            for page in move.pages.pages {
                let key = Key(region: move.pages.region, page: page)
                guard let group = groups[process][key], groups[other][key] == group else { continue }
                if let last = run, last.upperBound == page {
                    run = last.lowerBound..<page + 1
                } else {
                    flush()
                    run = page..<page + 1
                }
            }
            flush()
        }
        return all
    }
}
