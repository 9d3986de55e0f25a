import CLive
import Glibc
import HMM
import HMMScenario

/// What `hmm doctor` looks at. Reading it and judging it are apart, so that a machine can be made up.
struct MachineFacts: Sendable {
    /// Of 2 MiB or 1 GiB, reserved by the administrator.
    struct HugePagePool: Sendable, Equatable {
        var pageBytes: Int
        var total: Int
        var free: Int
    }

    struct Node: Sendable, Equatable {
        var number: Int
        var hasProcessors: Bool
        var totalBytes: Int
        var freeBytes: Int
    }

    enum FileRights: Sendable { case missing, denied, granted }

    var kernel = ""
    var architecture = ""
    var processors = 1
    var features = clive_features()
    /// What the environment says to treat as missing (HMM_WITHOUT), or nil.
    var leftOut: String?
    /// `vm.unprivileged_userfaultfd`; nil where there is no such setting.
    var unprivilegedUserfaultfd: Int?
    var userfaultfdDevice = FileRights.missing
    /// CAP_SYS_PTRACE.
    var canTraceProcesses = false
    /// The setting of transparent huge pages: `always`, `madvise` or `never`; nil without them.
    var hugePages: String?
    var hugePageBytes: Int?
    var hugePagePools: [HugePagePool] = []
    var nodes: [Node] = []
    /// `vm.max_map_count`.
    var mappingLimit: Int?
    /// RLIMIT_MEMLOCK and RLIMIT_AS in bytes; nil for no limit.
    var lockedMemoryLimit: Int?
    var addressSpaceLimit: Int?
    var memoryBytes: Int?
    var availableBytes: Int?
    var swapBytes: Int?
    var freeSwapBytes: Int?
    /// `vm.overcommit_memory`: 0 guesses, 1 always, 2 never.
    var overcommit: Int?
}

extension MachineFacts {
    /// Of the machine that this runs on. What cannot be read is left out.
    static func read() -> MachineFacts {
        var facts = MachineFacts()
        clive_probe(&facts.features)
        facts.leftOut = clive_without_names().map { String(cString: $0) }
        facts.readKernel()
        facts.readHugePages()
        facts.readNodes()
        facts.readLimits()
        facts.readMemory()
        return facts
    }

    private mutating func readKernel() {
        var name = utsname()
        if uname(&name) == 0 {
            kernel = Self.text(of: name.release)
            architecture = Self.text(of: name.machine)
        }
        processors = Console.processorCount
        unprivilegedUserfaultfd = Self.number("/proc/sys/vm/unprivileged_userfaultfd")
        if access("/dev/userfaultfd", F_OK) == 0 {
            userfaultfdDevice = access("/dev/userfaultfd", R_OK | W_OK) == 0 ? .granted : .denied
        }
        // The bit of CAP_SYS_PTRACE among the effective rights.
        let rights = Self.field("CapEff:", of: Self.text("/proc/self/status")).flatMap { UInt64($0, radix: 16) } ?? 0
        canTraceProcesses = rights >> 19 & 1 == 1
    }

    private mutating func readHugePages() {
        let folder = "/sys/kernel/mm/transparent_hugepage/"
        // `always [madvise] never`
        hugePages = Self.text(folder + "enabled")?.split { $0 == " " || $0 == "\n" }
            .first { $0.hasPrefix("[") }.map { String($0.dropFirst().dropLast()) }
        hugePageBytes = Self.number(folder + "hpage_pmd_size")
        let pools = "/sys/kernel/mm/hugepages/"
        for name in (try? TextFile.names(in: pools, suffix: "kB")) ?? [] {
            guard name.hasPrefix("hugepages-"), let size = Int(name.dropFirst(10).dropLast(2)),
                let total = Self.number("\(pools)\(name)/nr_hugepages"),
                let free = Self.number("\(pools)\(name)/free_hugepages")
            else { continue }
            hugePagePools.append(HugePagePool(pageBytes: size << 10, total: total, free: free))
        }
        hugePagePools.sort { $0.pageBytes < $1.pageBytes }
    }

    private mutating func readNodes() {
        let folder = "/sys/devices/system/node/"
        for name in (try? TextFile.names(in: folder, suffix: "")) ?? [] {
            guard name.hasPrefix("node"), let number = Int(name.dropFirst(4)) else { continue }
            let list = Self.text("\(folder)\(name)/cpulist") ?? ""
            let memory = Self.text("\(folder)\(name)/meminfo")
            nodes.append(
                Node(
                    number: number, hasProcessors: list.contains { $0 != "\n" },
                    totalBytes: (Self.field("MemTotal:", of: memory).flatMap { Int($0) } ?? 0) << 10,
                    freeBytes: (Self.field("MemFree:", of: memory).flatMap { Int($0) } ?? 0) << 10))
        }
        nodes.sort { $0.number < $1.number }
    }

    private mutating func readLimits() {
        mappingLimit = Self.number("/proc/sys/vm/max_map_count")
        lockedMemoryLimit = Self.limit(Self.lockedMemory)
        addressSpaceLimit = Self.limit(__rlimit_resource_t(RLIMIT_AS.rawValue))
    }

    private mutating func readMemory() {
        let memory = Self.text("/proc/meminfo")
        func bytes(_ name: String) -> Int? { Self.field(name, of: memory).flatMap { Int($0) }.map { $0 << 10 } }
        memoryBytes = bytes("MemTotal:")
        availableBytes = bytes("MemAvailable:")
        swapBytes = bytes("SwapTotal:")
        freeSwapBytes = bytes("SwapFree:")
        overcommit = Self.number("/proc/sys/vm/overcommit_memory")
    }

    // MARK: Reading

    /// RLIMIT_MEMLOCK, a macro that Swift does not see.
    private static let lockedMemory = __rlimit_resource_t(8)

    private static func text(_ path: String) -> String? { try? TextFile.read(path) }

    private static func number(_ path: String) -> Int? {
        text(path).flatMap { Int($0.split(separator: "\n").first ?? "") }
    }

    /// The word behind `name` in a file of lines.
    static func field(_ name: String, of text: String?) -> String? {
        for line in (text ?? "").split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\t" }
            if let index = words.firstIndex(where: { $0 == name }), index + 1 < words.count {
                return String(words[index + 1])
            }
        }
        return nil
    }

    private static func limit(_ resource: __rlimit_resource_t) -> Int? {
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0, limit.rlim_cur < rlim_t(Int.max) else { return nil }
        return Int(limit.rlim_cur)
    }

    /// A C string in an array, which Swift sees as a tuple.
    private static func text<Characters>(of characters: Characters) -> String {
        withUnsafeBytes(of: characters) { bytes in String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
