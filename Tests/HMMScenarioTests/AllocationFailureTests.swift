import HMM
import HMMScenario
import Testing

/// A resource runs out at every possible moment of a scenario: nothing traps, nothing is lost, nothing is left.
@Suite("Running out of something")
struct AllocationFailureTests {
    /// The n-th allocation fails, for every n until the scenario needs no more. The statement that it hit answers an
    /// error or does without; every page is read, all invariants hold, and the statement succeeds when tried again.
    @Test(arguments: AllocationFailureScenarios.all, [KernelProfile.linux6_12, .next])
    func everyAllocationMayFail(_ named: NamedScenario, profile: KernelProfile) throws {
        var n = 1
        while true {
            var run = try ShadowRun(named.scenario, ShadowRun.configuration(profile), .failedAllocation(n))
            let failure = run.play()
            #expect(failure == nil, "allocation \(n): \(failure.map(\.description) ?? "")")
            if failure != nil || !run.hasFailedAllocation { break }
            n += 1
        }
        #expect(n > 5, "the scenario allocates nothing")
    }

    /// The devices have n pages, for every n up to more than the scenario needs.
    @Test(arguments: AllocationFailureScenarios.moving, [KernelProfile.linux6_12, .next])
    func deviceMemoryMayEndAnywhere(_ named: NamedScenario, profile: KernelProfile) {
        for frames in UInt64(1)...20 {
            var scenario = named.scenario
            for index in scenario.devices.indices { scenario.devices[index].memoryBytes = frames * 4096 }
            let failure = ShadowRun.firstFailure(scenario, ShadowRun.configuration(profile))
            #expect(failure == nil, "\(frames) pages: \(failure.map(\.description) ?? "")")
        }
    }

    /// Somebody holds one page of the range while a statement runs, at every page and every statement.
    @Test(arguments: AllocationFailureScenarios.moving, [KernelProfile.linux6_12, .next])
    func anyPageMayBeHeld(_ named: NamedScenario, profile: KernelProfile) {
        let moves = named.scenario.statements.enumerated().filter { $0.element.verb.word == "migrate" }
        for (step, _) in moves {
            for page in 0..<named.scenario.regions[0].pageCount {
                let failure = ShadowRun.firstFailure(
                    named.scenario, ShadowRun.configuration(profile),
                    .pinnedPage(step: step, region: 0, page: page))
                #expect(failure == nil, "step \(step), page \(page): \(failure.map(\.description) ?? "")")
            }
        }
    }
}

struct NamedScenario: Sendable, CustomTestStringConvertible {
    var scenario: Scenario
    var testDescription: String { scenario.name }
}

enum AllocationFailureScenarios {
    static let all = parse(text)
    private static let movingNames = ["migrate", "mirrored-and-migrated", "two-devices", "coherent", "fork-moves"]
    static let moving = all.filter { movingNames.contains($0.scenario.name) }

    private static func parse(_ text: String) -> [NamedScenario] {
        do {
            return try Parser.parse(text).map(NamedScenario.init)
        } catch {
            fatalError("the scenarios cannot be read: \(error)")
        }
    }

    private static let text = """
        == fork-and-copy
        map a 7 rw
        cpu write a 1
        fork child
        cpu write a[2..<5] 2
        child: cpu write a 3
        child: dev0 write a[1..<3] 4
        child: fork grandchild
        grandchild: cpu write a[0] 5
        protect a[2..<4] r
        cpu read a
        child: cpu read a
        grandchild: cpu read a
        == swap
        map a 9 rw
        cpu write a 1
        advise a pageout
        dev0 read a[0..<4]
        fork child
        advise a pageout
        child: cpu write a[3..<7] 2
        cpu read a
        child: cpu read a
        == shared
        map a 6 rw shared
        map b 5 rw file
        cpu write a 1
        dev0 write b[1..<4] 2
        fork child
        child: cpu write b 3
        advise a pageout
        child: cpu read a
        advise a[2..<4] remove
        cpu read a
        cpu read b
        child: cpu read b
        == moved
        map a 12 rw
        cpu write a 1
        dev0 write a[3..<6] 2
        move a
        advise a[4..<8] dontneed
        unmap a[9]
        protect a[1..<3] r
        cpu read a
        == migrate
        map a 9 rw
        cpu write a 1
        dev0 migrate a
        dev0 write a[2..<5] 2
        cpu read a[3]
        dev0 evict a[0..<2]
        dev0 migrate a[1..<8]
        cpu write a[6] 3
        cpu read a
        == mirrored-and-migrated
        map a 16 rw
        protect a[15] r
        cpu write a[2..<4] 1
        dev0 read a
        dev0 migrate a[1..<16]
        dev0 read a
        cpu read a
        == two-devices
        map a 8 rw
        cpu write a[0..<5] 1
        dev0 migrate a
        dev1 migrate a[2..<7]
        dev1 write a[1..<4] 2
        dev0 release
        dev0 read a
        dev1 close
        cpu read a
        == coherent
        map a 7 rw
        cpu write a 1
        dev2 migrate a
        cpu write a[1..<3] 2
        dev3 migrate a[2..<6]
        dev0 migrate a[0..<4]
        dev2 evict a
        cpu read a
        == fork-moves
        map a 6 rw
        cpu write a 1
        dev0 migrate a
        fork child
        child: cpu write a[1..<3] 2
        child: dev0 migrate a
        dev1 migrate a
        child: exit
        cpu read a
        == exclusive
        map a 5 rw
        cpu write a[0..<3] 1
        dev0 exclusive a
        dev1 exclusive a[1..<4]
        cpu write a[2] 2
        fork child
        dev0 exclusive a[0..<2]
        advise a pageout
        child: cpu read a
        cpu read a
        == huge
        map a 512 rw hugepage
        cpu write a 1
        dev0 read a[3]
        fork child
        child: cpu write a[7] 2
        dev0 migrate a[0..<70]
        cpu read a[5]
        child: cpu read a[0..<9]
        cpu read a[60..<72]
        == collapse
        map a 512 rw
        cpu write a[1..<20] 1
        advise a hugepage
        dev0 migrate a[3..<5]
        advise a collapse
        dev0 exclusive a[6]
        protect a[9..<11] r
        cpu read a[0..<22]
        == hugetlb
        map a 512 rw hugetlb
        cpu write a[0..<3] 1
        fork child
        child: cpu write a[2] 2
        dev0 read a[0..<4]
        child: cpu read a[0..<4]
        advise a dontneed
        cpu read a[0..<4]

        """
}
