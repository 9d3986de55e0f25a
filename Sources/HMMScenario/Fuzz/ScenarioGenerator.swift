import HMM

/// Makes random scenarios: the same ones for a seed, whatever else is drawn.
package struct ScenarioGenerator {
    private struct Region {
        var name: String
        var pageCount: Int
        var isHugetlb: Bool
    }

    private var random: FuzzRandom
    private let family: FuzzFamily
    private let seed: UInt64
    private var lines: [String] = []
    private var regions: [Region] = []
    private var devices: [Int]
    private var processes = ["main"]
    private var processCount = 1
    private var nextSeed = 1

    package static let familyNames = FuzzFamily.all.map(\.name)

    private init(seed: UInt64, family: FuzzFamily?) {
        self.seed = seed
        random = FuzzRandom(seed: seed)
        // Drawn in any case, so that naming the family of a seed makes the same scenario again.
        let drawn = random.pick(weighted: FuzzFamily.all.map { ($0, weight: $0.share) })
        self.family = family ?? drawn
        devices = self.family.devices
    }

    /// The scenario of a seed. `family` is one of `familyNames`; nil leaves it to the seed.
    package static func scenario(seed: UInt64, family: String? = nil) -> Scenario {
        var generator = ScenarioGenerator(seed: seed, family: family.flatMap(FuzzFamily.named))
        let text = generator.text()
        do {
            return try Parser.parse(text)[0]
        } catch {
            preconditionFailure("the generator wrote what cannot be read: \(error.diagnostics)\n\(text)")
        }
    }

    private mutating func text() -> String {
        lines.append("== \(family.name)-\(seed)")
        declareDevice()
        for _ in 0..<random.number(in: family.regionCount) { map(in: "main") }
        let count = random.number(in: 6...34)
        while lines.count < count + 1 { add() }
        for process in processes {
            for region in regions { say(process, "cpu read \(region.name)") }
        }
        return lines.map { $0 + "\n" }.joined()
    }

    private mutating func say(_ process: String, _ words: String) {
        lines.append(process == "main" ? words : "\(process): \(words)")
    }

    private mutating func freshSeed() -> Int {
        defer { nextSeed += 1 }
        return nextSeed
    }

    /// Some scenarios have a device that is full soon.
    private mutating func declareDevice() {
        guard family.fillsDevices, random.chance(1, outOf: 6) else { return }
        let kind = random.pick(weighted: [("private", weight: 2), ("coherent", 1)])
        say("main", "device dev4 \(kind) \(random.pick(["2M", "2M", "4M"]))")
        devices += [4]
    }

    private mutating func map(in process: String) {
        guard regions.count < 4 else { return }
        let kind = random.pick(weighted: family.kinds)
        var size = random.pick(weighted: family.sizes)
        if kind == "hugepage", family.name == "mixed" { size = random.chance(1, outOf: 3) ? 512 : size }
        let name = ["a", "b", "c", "d"][regions.count]
        let words = ["map", name, String(size), random.pick(weighted: family.protections), kind]
        say(process, words.filter { !$0.isEmpty }.joined(separator: " "))
        regions.append(Region(name: name, pageCount: size, isHugetlb: kind.contains("hugetlb")))
    }

    private mutating func add() {
        let process = random.chance(1, outOf: 2) ? processes[0] : random.pick(processes)
        let action = random.pick(weighted: family.actions)
        let region = random.pick(regions)
        switch action {
        case .cpuRead: say(process, "cpu read \(range(region))")
        case .cpuWrite: say(process, "cpu write \(range(region)) \(freshSeed())")
        case .deviceRead: say(process, "\(device()) read \(range(region))")
        case .deviceWrite: say(process, "\(device()) write \(range(region)) \(freshSeed())")
        case .snapshot: say(process, "\(device()) snapshot \(range(region))")
        case .migrate: say(process, "\(device()) migrate \(range(region))")
        case .evict: say(process, "\(device()) evict \(range(region))")
        case .exclusive: say(process, "\(device()) exclusive \(range(region))")
        case .checkExclusive: say(process, "\(device()) check-exclusive \(range(region))")
        case .release: release(process)
        case .open: say(process, "\(device()) open")
        case .close: say(process, "\(device()) close")
        case .protect:
            let rights = random.pick(weighted: [("rw", weight: 4), ("r", 3), ("none", 1)])
            say(process, "protect \(wholePages(region)) \(rights)")
        case .unmap: say(process, "unmap \(wholePages(region))")
        case .advise(.remove): say(process, "advise \(wholePages(region)) remove")
        case .advise(.hugepage) where region.isHugetlb, .advise(.nohugepage) where region.isHugetlb: return
        case .advise(let advice): say(process, "advise \(range(region)) \(advice.rawValue)")
        case .move: say(process, "move \(region.name)")
        case .map: map(in: process)
        case .fork: fork(process)
        case .exit: exit(process)
        }
    }

    private mutating func fork(_ process: String) {
        guard processes.count < family.maxProcesses, processCount < 6 else { return }
        let child = "child\(processCount)"
        processCount += 1
        say(process, "fork \(child)")
        processes.append(child)
    }

    /// `main` stays: something must be left to look at.
    private mutating func exit(_ process: String) {
        guard process != "main" else { return }
        say(process, "exit")
        processes.removeAll { $0 == process }
    }

    /// With exclusive access about, only private memory is given back: in 6.12 a coherent page that another device has
    /// exclusively cannot be moved, and the release waits for it in vain.
    private mutating func release(_ process: String) {
        let device = random.pick(family.devices)
        guard device < 2 || family.name == "coherent" else { return }
        say(process, "dev\(device) release")
    }

    private mutating func device() -> String { "dev\(random.pick(devices))" }

    private mutating func range(_ region: Region) -> String {
        let count = region.pageCount
        switch random.below(10) {
        case 0...3: return region.name
        case 4, 5: return "\(region.name)[\(random.below(count))]"
        case 6, 7:
            let first = random.below(count)
            return "\(region.name)[\(first)..<\(min(count, first + random.number(in: 1...8)))]"
        default:
            let first = random.below(count)
            return "\(region.name)[\(first)..<\(random.number(in: first + 1...count))]"
        }
    }

    /// A range that cuts no hugetlb page. What a cut changes before it fails depends on how mappings have merged, which
    /// the shadow does not know.
    private mutating func wholePages(_ region: Region) -> String {
        guard region.isHugetlb else { return range(region) }
        let size = 1 << Geometry.pmdOrder
        let first = random.below(region.pageCount / size)
        return "\(region.name)[\(first * size)..<\((first + 1) * size)]"
    }
}
