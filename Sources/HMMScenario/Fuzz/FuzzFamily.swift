import HMM

/// What a generated statement does.
enum FuzzAction: Hashable, Sendable {
    case cpuRead, cpuWrite
    case deviceRead, deviceWrite, snapshot, migrate, evict, exclusive, checkExclusive, release, open, close
    case protect, unmap, move, fork, exit, map
    case advise(Advice)
}

/// What the scenarios of a family are made of. The families are those of the recordings, with their weights.
struct FuzzFamily: Sendable {
    var name: String
    /// How often the family is drawn.
    var share = 8
    var sizes = FuzzFamily.smallSizes
    var regionCount = 1...2
    /// The kinds of a region, as `map` writes them behind its rights.
    var kinds: [(String, weight: Int)] = [("", 1)]
    var protections: [(String, weight: Int)] = [("rw", 1)]
    var devices = [0]
    var maxProcesses = 1
    var actions: [(FuzzAction, weight: Int)]

    static let smallSizes = [(1, weight: 4), (2, 5), (7, 6), (16, 5), (33, 3), (64, 1), (65, 1), (130, 1)]
    static let hugeSizes = [(512, weight: 8), (1024, 3), (1536, 1), (700, 1)]

    static let accesses: [(FuzzAction, weight: Int)] = [
        (.cpuRead, 20), (.cpuWrite, 20), (.deviceRead, 20), (.deviceWrite, 20), (.snapshot, 12),
    ]
    static let moves: [(FuzzAction, weight: Int)] = [(.migrate, 25), (.evict, 10)]
    static let exclusives: [(FuzzAction, weight: Int)] = [(.exclusive, 12), (.checkExclusive, 4)]
    static let fileKinds: [(String, weight: Int)] = [("shared", 3), ("file", 3), ("file shared", 3)]

    /// Moves so much that a device of a few megabytes is full.
    var fillsDevices: Bool { actions.contains { $0.0 == .migrate } && sizes.contains { $0.0 > 256 } }

    static func named(_ name: String) -> FuzzFamily? { all.first { $0.name == name } }

    static let all: [FuzzFamily] = simple + moving + huge + [mixed]

    private static let simple: [FuzzFamily] = [
        FuzzFamily(
            name: "access", protections: [("rw", 4), ("r", 2), ("none", 2)],
            actions: accesses + [(.advise(.populateRead), 5), (.advise(.populateWrite), 5)]),
        FuzzFamily(
            name: "protect", actions: accesses + [(.protect, 30), (.unmap, 5), (.advise(.dontneed), 10)]),
        FuzzFamily(
            name: "fork", kinds: [("", 5), ("shared", 1)], maxProcesses: 4,
            actions: accesses + [(.fork, 10), (.protect, 6), (.unmap, 3), (.advise(.dontneed), 6), (.exit, 2)]),
        FuzzFamily(
            name: "shmem", kinds: fileKinds, protections: [("rw", 3), ("r", 2)], maxProcesses: 2,
            actions: accesses + [
                (.advise(.populateRead), 5), (.advise(.populateWrite), 6), (.advise(.remove), 6), (.protect, 10),
                (.unmap, 4), (.advise(.dontneed), 10), (.fork, 3),
            ]),
        FuzzFamily(
            name: "move", actions: accesses + [(.move, 15), (.protect, 5), (.unmap, 2), (.advise(.dontneed), 5)]),
        FuzzFamily(
            name: "pageout", kinds: [("", 4), ("shared", 1)], maxProcesses: 2,
            actions: accesses + [(.advise(.pageout), 25), (.fork, 3), (.move, 2), (.protect, 6)]),
    ]

    private static let moving: [FuzzFamily] = [
        FuzzFamily(
            name: "cow", kinds: [("", 8), ("shared", 1)], devices: [0, 1], maxProcesses: 4,
            actions: accesses + moves + exclusives + [(.fork, 10), (.protect, 5), (.exit, 2)]),
        FuzzFamily(
            name: "file", kinds: fileKinds, protections: [("rw", 2), ("r", 1)], devices: [0, 1], maxProcesses: 2,
            actions: accesses + moves + exclusives + [
                (.advise(.dontneed), 9), (.advise(.remove), 4), (.protect, 9), (.unmap, 4), (.fork, 3),
            ]),
        FuzzFamily(
            name: "remap", devices: [0, 1],
            actions: accesses + moves + exclusives + [(.move, 18), (.advise(.dontneed), 3), (.unmap, 2)]),
        FuzzFamily(
            name: "swap", kinds: [("", 5), ("shared", 1)], devices: [0, 1], maxProcesses: 2,
            actions: accesses + moves + exclusives + [(.advise(.pageout), 28), (.protect, 4), (.fork, 3)]),
        FuzzFamily(name: "migrate", actions: accesses + moves + [(.migrate, 20), (.protect, 6)]),
        FuzzFamily(
            name: "multi", devices: [0, 1],
            actions: accesses + moves + exclusives + [(.migrate, 20), (.release, 6), (.close, 2)]),
        FuzzFamily(
            name: "coherent", devices: [0, 2, 3], maxProcesses: 2,
            actions: accesses + moves + [(.migrate, 20), (.release, 5), (.protect, 6), (.fork, 3)]),
        FuzzFamily(
            name: "exclusive", devices: [0, 1], maxProcesses: 2,
            actions: accesses + [
                (.exclusive, 30), (.checkExclusive, 20), (.migrate, 4), (.protect, 8), (.advise(.dontneed), 4),
                (.advise(.pageout), 3), (.fork, 3),
            ]),
    ]

    private static let huge: [FuzzFamily] = [
        FuzzFamily(
            name: "huge", share: 2, sizes: hugeSizes, regionCount: 1...1, kinds: [("hugepage", 1)], devices: [0, 1],
            actions: accesses + moves + exclusives + [
                (.advise(.dontneed), 3), (.protect, 6), (.unmap, 1), (.advise(.pageout), 3), (.move, 3),
            ]),
        FuzzFamily(
            name: "hugecow", share: 2, sizes: hugeSizes, regionCount: 1...1, kinds: [("hugepage", 1)], devices: [0, 1],
            maxProcesses: 3,
            actions: accesses + moves + exclusives + [(.fork, 8), (.protect, 4), (.exit, 2), (.advise(.pageout), 3)]),
        FuzzFamily(
            name: "collapse", share: 2, sizes: hugeSizes, regionCount: 1...1, kinds: [("", 1), ("hugepage", 1)],
            devices: [0, 1], maxProcesses: 2,
            actions: accesses + moves + exclusives + [
                (.advise(.collapse), 15), (.advise(.hugepage), 8), (.advise(.nohugepage), 1), (.advise(.dontneed), 4),
                (.protect, 3), (.fork, 2), (.advise(.pageout), 3),
            ]),
        FuzzFamily(
            name: "hugetlb", share: 2, sizes: [(512, weight: 4), (1024, 1)], regionCount: 1...1,
            kinds: [("hugetlb", 3), ("shared hugetlb", 1)], maxProcesses: 2,
            actions: accesses + [
                (.migrate, 4), (.evict, 2), (.exclusive, 4), (.protect, 3), (.unmap, 1), (.advise(.dontneed), 3),
                (.fork, 2), (.advise(.pageout), 1), (.advise(.populateRead), 1), (.move, 2), (.advise(.remove), 1),
            ]),
    ]

    private static let mixed = FuzzFamily(
        name: "mixed", share: 10, sizes: smallSizes + [(512, 1)], regionCount: 2...4,
        kinds: [("", 8), ("hugepage", 2), ("shared", 2), ("file", 2), ("file shared", 2)],
        protections: [("rw", 5), ("r", 1)], devices: [0, 1, 2, 3], maxProcesses: 3,
        actions: accesses + moves + exclusives + [
            (.release, 2), (.open, 1), (.close, 2), (.protect, 12), (.unmap, 4), (.move, 5), (.fork, 5), (.exit, 2),
            (.map, 2), (.advise(.dontneed), 5), (.advise(.pageout), 8), (.advise(.remove), 2),
            (.advise(.populateRead), 2), (.advise(.populateWrite), 2), (.advise(.collapse), 1),
        ])
}
