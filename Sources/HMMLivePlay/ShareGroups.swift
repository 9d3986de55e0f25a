import HMMScenario

/// What one kernel knows by the reverse map: which processes have a page in common, and which are walked for it, in
/// which order.
///
/// A page belongs to the family of the process that made it, by its first write: that process and those forked from it
/// since, whether or not they still map the page. The walk goes from the oldest on, and ends when nobody maps the page
/// any more. A page of a file, or of shared memory, belongs to all that map the file, a child right behind its parent.
///
/// Kernel: mm/rmap.c anon_vma_clone, rmap_walk_anon, try_to_migrate; kernel/fork.c dup_mmap (6.12).
struct ShareGroups {
    private struct Key: Hashable {
        var region: Int
        var page: Int
    }

    /// The group of each page that a process shares, by the process's number. A group is a number of its own.
    private var groups: [[Key: Int]]
    /// By the group: who made the page.
    private var makers: [Int] = []
    /// By the maker and the region: its family, in the order of the walk. None before a fork saw something written.
    private var families: [[Int: [Int]]]
    /// By the region, of a file or of shared memory: who has it mapped, in the order of the walk.
    private var sharers: [Int: [Int]] = [:]

    init(processCount: Int) {
        groups = Array(repeating: [:], count: processCount)
        families = Array(repeating: [:], count: processCount)
    }

    // MARK: What happens

    mutating func mapFile(_ region: Int, by process: Int) { sharers[region] = [process] }

    /// A child was forked, with these pages in common.
    mutating func fork(_ child: Int, of parent: Int, sharing pages: [RegionPages]) {
        for pages in pages {
            if families[parent][pages.region] == nil { families[parent][pages.region] = [parent] }
            share(pages, of: parent, with: child)
        }
        for region in families[parent].keys.sorted() {
            for maker in families.indices where families[maker][region]?.contains(parent) == true {
                families[maker][region]?.append(child)
            }
            families[child][region] = [child]
        }
        for region in sharers.keys.sorted() {
            guard let place = sharers[region]?.firstIndex(of: parent) else { continue }
            sharers[region]?.insert(child, at: place + 1)
        }
    }

    private mutating func share(_ pages: RegionPages, of parent: Int, with child: Int) {
        for page in pages.pages {
            let key = Key(region: pages.region, page: page)
            if groups[parent][key] == nil {
                groups[parent][key] = makers.count
                makers.append(parent)
            }
            groups[child][key] = groups[parent][key]
        }
    }

    mutating func leave(_ pages: RegionPages, by process: Int) {
        for page in pages.pages { groups[process][Key(region: pages.region, page: page)] = nil }
    }

    mutating func leaveAll(by process: Int) { groups[process] = [:] }

    // MARK: Who has what

    /// What each other process has of these pages in common with `process`.
    func others(_ move: SharedMove, of process: Int) -> [(process: Int, move: SharedMove)] {
        var runs = groups.map { _ in RunsOfPages<Bool>(move.pages.region) }
        for page in move.pages.pages {
            for other in members(page, of: move.pages.region, process) { runs[other].append(page, true) }
        }
        return runs.enumerated().flatMap { other, runs in
            runs.runs.map { (other, SharedMove(pages: $0.pages, device: move.device)) }
        }
    }

    private func members(_ page: Int, of region: Int, _ process: Int) -> [Int] {
        let key = Key(region: region, page: page)
        guard let group = groups[process][key] else { return [] }
        return groups.indices.filter { $0 != process && groups[$0][key] == group }
    }

    /// Those of the pages that others map too, and whether a walk that begins when `process` has unmapped them reaches
    /// `process` all the same.
    ///
    /// - Parameter mappers: who else maps a page of a file or of shared memory.
    func twins(of pages: RegionPages, _ process: Int, mappers: [RegionPages: [Int]]) -> [Twin] {
        var runs = RunsOfPages<Bool>(pages.region)
        for page in pages.pages {
            let walk = walk(page, of: pages.region, process, mappers)
            runs.append(page, walk.isEmpty ? nil : walk.contains(process))
        }
        return runs.runs.map { Twin(pages: $0.pages.pages, isHeard: $0.value) }
    }

    /// What a walk for these pages, which `process` has unmapped, reaches of each other process.
    func walks(_ pages: RegionPages, _ process: Int, mappers: [RegionPages: [Int]]) -> [(process: Int, RegionPages)] {
        var runs = groups.map { _ in RunsOfPages<Bool>(pages.region) }
        for page in pages.pages {
            for other in walk(page, of: pages.region, process, mappers) where other != process {
                runs[other].append(page, true)
            }
        }
        return runs.enumerated().flatMap { other, runs in runs.runs.map { (other, $0.pages) } }
    }

    /// Everybody up to the last who maps the page; nobody if only `process` did.
    private func walk(_ page: Int, of region: Int, _ process: Int, _ mappers: [RegionPages: [Int]]) -> [Int] {
        let group = groups[process][Key(region: region, page: page)]
        let family = group.flatMap { families[makers[$0]][region] } ?? sharers[region] ?? []
        let single = RegionPages(region: region, pages: page..<page + 1)
        let others = group == nil ? mappers[single] ?? [] : members(page, of: region, process)
        guard let last = family.lastIndex(where: { others.contains($0) }) else { return [] }
        return Array(family[...last])
    }
}

/// Pages that other processes map too.
struct Twin: Equatable {
    var pages: Range<Int>
    /// A walk of the reverse map reaches this process too, after it has unmapped them.
    var isHeard: Bool

    var text: String { "\(pages.lowerBound) \(pages.upperBound) \(isHeard ? 1 : 0)" }
}
