import ArgumentParser
import CLive
import Foundation
import Testing

@testable import hmm

@Suite("hmm doctor")
struct DoctorTests {
    /// A machine that has everything.
    static let complete: MachineFacts = {
        var facts = MachineFacts()
        facts.kernel = "6.18.0"
        facts.architecture = "x86_64"
        facts.processors = 8
        facts.features = clive_features(
            open_error: 0, via_device: false, kernel_faults: true, sigbus: true, move: true, copy: true,
            zeropage: true, write_protect: true, wp_unpopulated: true, protects_copies: true,
            wp_async: true, poison: true, minor_shmem: true, thread_id: true, exact_address: true,
            pagemap_scan: true, procmap_query: true, populate: true, pfn_visible: true, uffd_features: .max,
            uffd_ioctls: .max)
        facts.unprivilegedUserfaultfd = 1
        facts.userfaultfdDevice = .granted
        facts.canTraceProcesses = true
        facts.hugePages = "madvise"
        facts.hugePageBytes = 2 << 20
        facts.hugePagePools = [.init(pageBytes: 2 << 20, total: 16, free: 9)]
        facts.nodes = [
            .init(number: 0, hasProcessors: true, totalBytes: 8 << 30, freeBytes: 4 << 30),
            .init(number: 1, hasProcessors: false, totalBytes: 2 << 30, freeBytes: 1 << 30),
        ]
        facts.mappingLimit = 65530
        facts.lockedMemoryLimit = 8 << 20
        facts.memoryBytes = 8 << 30
        facts.availableBytes = 7 << 30
        facts.swapBytes = 0
        facts.overcommit = 0
        return facts
    }()

    static func report(_ change: (inout MachineFacts) -> Void) -> DoctorReport {
        var facts = complete
        change(&facts)
        return DoctorReport(facts) { _ in nil }
    }

    @Test("a complete machine lacks nothing")
    func complete() throws {
        let report = Self.report { _ in }
        #expect(report.isUsable && report.conclusion == "Live memory works here.")
        #expect(report.findings.allSatisfy { $0.verdict == .yes || $0.verdict == .info })
        #expect(report.text.contains("16, of which 9 are free"))
        let node = try #require(report.findings.first { $0.name == "NUMA node 1" })
        #expect(node.text == "2 GiB, 1 GiB free, without processors: the device-coherent memory")
    }

    @Test("without write protection it works; without what is needed it does not, and that is named as in its line")
    func needed() {
        let unprotected = Self.report { $0.features.write_protect = false }
        #expect(unprotected.isUsable && unprotected.conclusion == "Live memory works here.")
        let report = Self.report { $0.features.copy = false }
        #expect(!report.isUsable)
        #expect(report.conclusion == "Live memory does not work here: copy, zero page is missing.")
    }

    @Test("a kernel of old is enough, and what is done instead is said")
    func oldKernel() {
        let report = Self.report {
            $0.features.move = false
            $0.features.pagemap_scan = false
            $0.features.procmap_query = false
            $0.features.wp_unpopulated = false
            $0.features.protects_copies = false
            $0.features.exact_address = false
        }
        #expect(report.isUsable)
        let absent = report.findings.filter { $0.verdict == .no }
        #expect(
            absent.map(\.name) == [
                "  move", "  protection of holes", "  protection of copies", "  exact address", "PAGEMAP_SCAN",
                "PROCMAP_QUERY",
            ])
        #expect(absent.allSatisfy { !$0.text.isEmpty })
    }

    @Test("a user without rights is told what to set", arguments: [Int32(EPERM), ENOSYS])
    func refused(_ error: Int32) throws {
        let report = Self.report {
            $0.features = clive_features()
            $0.features.open_error = error
            $0.unprivilegedUserfaultfd = 0
            $0.userfaultfdDevice = .denied
            $0.canTraceProcesses = false
        }
        #expect(!report.isUsable)
        #expect(report.conclusion == "Live memory does not work here: userfaultfd is missing.")
        let finding = try #require(report.findings.first { $0.name == "userfaultfd" })
        #expect(finding.text.contains(error == EPERM ? "EPERM" : "ENOSYS"))
        let remedy = try #require(finding.remedy)
        #expect(remedy.contains("seccomp"))
        #expect(remedy.contains("sysctl vm.unprivileged_userfaultfd=1") == (error == EPERM))
        #expect(remedy.contains("/dev/userfaultfd") == (error == EPERM))
    }

    @Test("faults of the user only: it works, and the last line says what does not")
    func userFaultsOnly() throws {
        let report = Self.report {
            $0.features.kernel_faults = false
            $0.unprivilegedUserfaultfd = 0
            $0.userfaultfdDevice = .missing
            $0.canTraceProcesses = false
        }
        #expect(report.isUsable)
        #expect(report.conclusion.contains("A system call cannot reach"))
        let finding = try #require(report.findings.first { $0.name == "  faults of system calls" })
        #expect(finding.verdict == .no)
        #expect(finding.remedy == "sysctl vm.unprivileged_userfaultfd=1, or CAP_SYS_PTRACE")
    }

    @Test("what was left out on purpose is said, and how to have it again")
    func leftOut() throws {
        let report = Self.report {
            $0.features.kernel_faults = false
            $0.leftOut = "kernel-faults"
        }
        #expect(report.findings.contains { $0.name == "left out" && $0.text.hasPrefix("kernel-faults: treated as") })
        let finding = try #require(report.findings.first { $0.name == "  faults of system calls" })
        #expect(finding.remedy == "leave kernel-faults out of HMM_WITHOUT")
    }

    @Test("a trial that fails outweighs features that are there")
    func failedTrial() {
        let report = DoctorReport(Self.complete) { _ in "the page came back with other bytes." }
        #expect(!report.isUsable)
        #expect(report.conclusion.hasSuffix("though nothing is missing: the page came back with other bytes."))
    }

    @Test("small limits come with what raises them")
    func limits() {
        let report = Self.report {
            $0.mappingLimit = 1000
            $0.addressSpaceLimit = 1 << 30
            $0.overcommit = 2
            $0.hugePages = "never"
            $0.nodes.removeLast()
        }
        #expect(report.isUsable)
        let remedies = report.findings.filter { $0.remedy != nil }.map(\.name)
        #expect(remedies == ["transparent huge pages", "mappings a process", "address space", "overcommit"])
        #expect(report.text.contains("none without processors"))
    }

    @Test("the words of a file are found by what stands before them")
    func fields() {
        let text = "MemTotal:        24666320 kB\nNode 0 MemFree:         23711 kB\nCapEff:\t000001ffffffffff\n"
        #expect(MachineFacts.field("MemTotal:", of: text) == "24666320")
        #expect(MachineFacts.field("MemFree:", of: text) == "23711")
        #expect(MachineFacts.field("CapEff:", of: text) == "000001ffffffffff")
        #expect(MachineFacts.field("SwapFree:", of: text) == nil)
    }

    @Test("this machine: the JSON says the same as the words")
    func thisMachine() throws {
        let facts = MachineFacts.read()
        #expect(!facts.kernel.isEmpty && facts.processors > 0 && (facts.memoryBytes ?? 0) > 0)
        let report = DoctorReport(facts, trial: { _ in nil })
        let parsed = try #require(JSONSerialization.jsonObject(with: Data(report.json.utf8)) as? [String: Any])
        #expect(parsed["works"] as? Bool == report.isUsable)
        let findings = try #require(parsed["findings"] as? [[String: Any]])
        #expect(findings.map { $0["name"] as? String } == report.findings.map(\.name))
        for finding in report.findings { #expect(report.text.contains(finding.text)) }
    }
}
