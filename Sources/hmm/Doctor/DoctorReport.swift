import CLive
import HMMScenario

/// One thing that `hmm doctor` looked at.
struct DoctorFinding: Sendable, Equatable {
    enum Verdict: String, Sendable {
        /// There.
        case yes
        /// Not there; something else is done, which the text says.
        case no
        /// Not there, and live memory does not work without it.
        case needed
        /// A fact that is neither good nor bad.
        case info
    }

    let name: String
    let verdict: Verdict
    let text: String
    /// What to set, where something can be done.
    var remedy: String?
}

/// What a machine can do, in words.
struct DoctorReport: Sendable {
    private(set) var findings: [DoctorFinding] = []
    /// The last line: whether live memory works.
    private(set) var conclusion = ""
    private(set) var isUsable = false

    /// - Parameter trial: what became of moving a page to a device and back; nil where it worked.
    init(_ facts: MachineFacts, trial: (MachineFacts) -> String?) {
        findings.append(
            DoctorFinding(
                name: "kernel", verdict: .info,
                text: "Linux \(facts.kernel), \(facts.architecture), "
                    + Self.count(facts.processors, "processor", "processors")))
        if let names = facts.leftOut {
            note("left out", "\(names): treated as missing (HMM_WITHOUT)")
        }
        add(userfaultfd: facts)
        add(features: facts)
        add(views: facts)
        add(hugePages: facts)
        add(nodes: facts)
        add(limits: facts)
        conclude(facts, trial)
    }

    private mutating func add(
        _ name: String, _ isThere: Bool, _ with: String, _ without: String, isNeeded: Bool = false,
        remedy: String? = nil
    ) {
        findings.append(
            DoctorFinding(
                name: name, verdict: isThere ? .yes : isNeeded ? .needed : .no, text: isThere ? with : without,
                remedy: isThere ? nil : remedy))
    }

    private mutating func note(_ name: String, _ text: String, remedy: String? = nil) {
        findings.append(DoctorFinding(name: name, verdict: .info, text: text, remedy: remedy))
    }

    private mutating func conclude(_ facts: MachineFacts, _ trial: (MachineFacts) -> String?) {
        let missing = findings.filter { $0.verdict == .needed }.map { $0.name.drop { $0 == " " } }
        guard missing.isEmpty else {
            conclusion = "Live memory does not work here: \(missing.joined(separator: ", ")) is missing."
            return
        }
        if let failure = trial(facts) {
            conclusion = "Live memory does not work here, though nothing is missing: \(failure)"
            return
        }
        isUsable = true
        let withoutSystemCalls =
            facts.features.kernel_faults
            ? "" : " A system call cannot reach memory that a device has, unless it was brought home before."
        conclusion = "Live memory works here.\(withoutSystemCalls)"
    }

    // MARK: Output

    var text: String {
        let width = findings.map(\.name.count).max() ?? 0
        var text = ""
        for finding in findings {
            let name = finding.name + String(repeating: " ", count: width - finding.name.count)
            text += "\(name)  \(Self.marks[finding.verdict] ?? "")  \(finding.text)\n"
            if let remedy = finding.remedy {
                text += String(repeating: " ", count: width + 10) + "→ \(remedy)\n"
            }
        }
        return text + conclusion + "\n"
    }

    private static let marks: [DoctorFinding.Verdict: String] = [
        .yes: "yes   ", .no: "no    ", .needed: "NEEDED", .info: "      ",
    ]

    var json: String {
        let values = findings.map { finding in
            JSON.object([
                ("name", .string(finding.name)), ("verdict", .string(finding.verdict.rawValue)),
                ("text", .string(finding.text)), ("remedy", finding.remedy.map(JSON.string) ?? .null),
            ])
        }
        return JSON.object([
            ("works", .bool(isUsable)), ("conclusion", .string(conclusion)), ("findings", .array(values)),
        ]).text
    }

    static func count(_ count: Int, _ one: String, _ many: String) -> String { "\(count) \(count == 1 ? one : many)" }

    /// In the largest unit of which there is at least one.
    static func size(_ bytes: Int) -> String {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] where bytes >= 1 << shift {
            return "\(BenchNumber.fixed(Double(bytes) / Double(1 << shift), 1)) \(unit)"
        }
        return "\(bytes) bytes"
    }
}

// MARK: Faults

extension DoctorReport {
    /// ENOSYS of a kernel, or a sandbox, that has none; EPERM of one that does not let us.
    private static let (permissionDenied, notImplemented): (Int32, Int32) = (1, 38)

    private mutating func add(userfaultfd facts: MachineFacts) {
        let features = facts.features
        guard features.open_error != 0 else {
            let how = features.via_device ? "by /dev/userfaultfd" : "by the system call"
            add("userfaultfd", true, "opened \(how)", "")
            add(
                "  faults of system calls", features.kernel_faults,
                "are answered too, so a system call may use memory that a device has taken",
                "are not permitted to this user: a system call that gets memory which a device has answers EFAULT; "
                    + "under hmm exec read, write and their like bring it home before",
                remedy: facts.leftOut?.contains("kernel-faults") == true
                    ? "leave kernel-faults out of HMM_WITHOUT" : Self.rights(facts))
            return
        }
        let remedy =
            switch features.open_error {
            case Self.notImplemented:
                "a kernel with CONFIG_USERFAULTFD; in a container, a seccomp profile that permits userfaultfd"
            case Self.permissionDenied:
                Self.rights(facts) + "; in a container, a seccomp profile that permits userfaultfd"
            default: "nothing is known that helps against this error"
            }
        add(
            "userfaultfd", false, "", "cannot be opened: \(Self.description(of: features.open_error))",
            isNeeded: true, remedy: remedy)
    }

    /// What gives this user the right to answer faults of the kernel.
    private static func rights(_ facts: MachineFacts) -> String {
        var ways: [String] = []
        if facts.unprivilegedUserfaultfd == 0 { ways.append("sysctl vm.unprivileged_userfaultfd=1") }
        if facts.userfaultfdDevice == .denied { ways.append("chmod a+rw /dev/userfaultfd") }
        if !facts.canTraceProcesses { ways.append("CAP_SYS_PTRACE") }
        return ways.isEmpty ? "nothing that this user lacks" : ways.joined(separator: ", or ")
    }

    private mutating func add(features facts: MachineFacts) {
        let features = facts.features
        guard features.open_error == 0 else { return }
        add(
            "  copy, zero page", features.copy && features.zeropage, "pages are made where one is missing",
            "pages cannot be made where one is missing", isNeeded: true)
        add(
            "  SIGBUS", features.sigbus, "a fault is answered on the thread that has it, in a signal handler",
            "every fault is answered by a second thread, some ten times slower")
        add(
            "  move", features.move, "pages go to a device and back without being copied",
            "pages are copied to a device and back (moves came with Linux 6.8)")
        add(
            "  write protection", features.write_protect,
            "mirrors hear of the first write after a fork; pages that cannot be moved are protected and copied",
            "mirrors do not hear of the first write after a fork; pages that cannot be moved are taken aside and "
                + "copied (Linux 5.7, and not on every machine)")
        add(
            "  protection of holes", features.wp_unpopulated, "holes can be write-protected",
            "a hole is filled with a zero page before it is write-protected (Linux 6.4)")
        add(
            "  protection of copies", features.protects_copies,
            "what comes home is protected at once, whatever its rights",
            "what comes home and may only be read is protected by a second call (Linux 5.19)")
        add(
            "  exact address", features.exact_address, "faults tell the byte",
            "faults tell the page only, which is enough (Linux 5.18)")
        add(
            "  thread", features.thread_id, "faults tell the thread",
            "faults do not tell the thread, which only traces miss")
    }

    private mutating func add(views facts: MachineFacts) {
        let features = facts.features
        add(
            "PAGEMAP_SCAN", features.pagemap_scan, "a snapshot is one call for many pages",
            "a snapshot reads eight bytes a page of /proc/self/pagemap, and takes the rights of a page from its mapping"
                + " (Linux 6.7)")
        add(
            "PROCMAP_QUERY", features.procmap_query, "a mapping is looked up by one call",
            "a mapping is looked up in the text of /proc/self/maps (Linux 6.11)")
        add(
            "MADV_POPULATE", features.populate, "a device fault needs no touch, and reports what is wrong",
            "a device fault touches the page (Linux 5.14)")
        add(
            "frame numbers", features.pfn_visible, "are visible in /proc/self/pagemap",
            "are hidden from this user; nothing needs them", remedy: nil)
    }

    private static func description(of error: Int32) -> String {
        switch error {
        case permissionDenied: "EPERM, operation not permitted"
        case notImplemented: "ENOSYS, function not implemented"
        default: "error \(error)"
        }
    }
}

// MARK: Memory

extension DoctorReport {
    private mutating func add(hugePages facts: MachineFacts) {
        let size = facts.hugePageBytes.map { " of \(Self.size($0))" } ?? ""
        switch facts.hugePages {
        case "always"?: note("transparent huge pages", "always: every mapping gets pages\(size) where they fit")
        case "madvise"?: note("transparent huge pages", "madvise: a mapping that asks for them gets pages\(size)")
        case "never"?:
            note(
                "transparent huge pages", "never: memory moves in pages of 4 KiB",
                remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        default: note("transparent huge pages", "this kernel has none: memory moves in pages of 4 KiB")
        }
        for pool in facts.hugePagePools {
            let name = "hugetlb pages of \(Self.size(pool.pageBytes))"
            if pool.total == 0 {
                note(name, "none reserved")
            } else {
                note(name, "\(pool.total), of which \(pool.free) are free")
            }
        }
    }

    private mutating func add(nodes facts: MachineFacts) {
        let devices = facts.nodes.filter { !$0.hasProcessors && $0.totalBytes > 0 }
        let all = Self.count(facts.nodes.count, "node", "nodes")
        guard let used = devices.first else {
            note("NUMA", "\(all), none without processors: device-coherent memory is ordinary memory, accounted only")
            return
        }
        for node in facts.nodes {
            let use = node == used ? "the device-coherent memory" : "can be device-coherent memory"
            let kind = node.hasProcessors ? "with processors" : "without processors: \(use)"
            let free = Self.size(node.freeBytes)
            note("NUMA node \(node.number)", "\(Self.size(node.totalBytes)), \(free) free, \(kind)")
        }
    }

    private mutating func add(limits facts: MachineFacts) {
        if let limit = facts.mappingLimit {
            note(
                "mappings a process", "\(limit) (vm.max_map_count)",
                remedy: limit < 65530 ? "sysctl vm.max_map_count=65530, for who changes rights page by page" : nil)
        }
        note("locked memory", facts.lockedMemoryLimit.map { "\(Self.size($0)) (RLIMIT_MEMLOCK)" } ?? "no limit")
        note(
            "address space", facts.addressSpaceLimit.map { "\(Self.size($0)) (RLIMIT_AS)" } ?? "no limit",
            remedy: (facts.addressSpaceLimit ?? .max) < 64 << 30
                ? "ulimit -v unlimited: device memory is an address range of its own" : nil)
        if let total = facts.memoryBytes {
            note("memory", "\(Self.size(total)), \(Self.size(facts.availableBytes ?? 0)) available")
        }
        let swap = facts.swapBytes ?? 0
        note("swap", swap == 0 ? "none" : "\(Self.size(swap)), \(Self.size(facts.freeSwapBytes ?? 0)) free")
        switch facts.overcommit {
        case 2?:
            note(
                "overcommit", "never: device memory counts from the start, used or not",
                remedy: "sysctl vm.overcommit_memory=0, or less device memory")
        case 1?: note("overcommit", "always")
        case 0?: note("overcommit", "a guess by the kernel")
        default: break
        }
    }
}
