import CLive
import CommandRunner
import Foundation
import HMMLive
import HMMScenario
import Testing

@testable import HMMLivePlay

private let hasFaults = LiveSpace.features.open_error == 0

private let packageFolder = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

/// Real processes need a process without threads that forks them: the command.
@Suite(
    "Scenarios on real memory", .serialized,
    .enabled(if: BuiltCommand.isThere, "the executable is not beside the tests"),
    .enabled(if: hasFaults, "this machine lets nobody use userfaultfd"))
struct LivePlayTests {
    /// - Parameter without: features that are left out (`HMM_WITHOUT`).
    private func play(_ scenario: String, without: String = "") async throws -> [Substring] {
        let answer = try await BuiltCommand.run(
            ["run", "--live", "--format", "plain", "-"], input: "== a\n" + scenario,
            environment: ["HMM_WITHOUT": without])
        #expect(answer.errors.isEmpty)
        return answer.output.split(separator: "\n").dropFirst().map { $0.drop { $0 != " " }.dropFirst() }
    }

    @Test("a handful of each family answers as recorded", arguments: LiveDifferences.families)
    func recordings(family: String) async throws {
        let folder = packageFolder.appendingPathComponent("Conformance/linux-6.12").path
        let recordings = try Recording.family(family, in: folder).prefix(6)
            .filter { LiveDifferences.reasons[$0.scenario.name] == nil }
        for recording in recordings {
            let name = recording.scenario.name
            let answer = try await BuiltCommand.run(
                ["run", "--live", "--format", "plain", "--scenario", name, "\(folder)/\(family).hmm"])
            #expect(answer.output == (["== " + name] + recording.expected).map { $0 + "\n" }.joined())
        }
    }

    @Test func accessesThatMayNotBeAreSeen() async throws {
        #expect(
            try await play("map a 3 rw\nprotect a[1] none\ncpu write a 1\ncpu read a\nunmap a[2]\ncpu read a\n")
                == ["ok", "ok", "1 ! 1", "1 ! 1", "ok", "1 !*2"])
    }

    @Test func aForkedChildHasMirrorsOfItsOwn() async throws {
        #expect(
            try await play(
                """
                map a 4 rw
                cpu write a 1
                dev0 migrate a
                fork child
                dev0 snapshot a
                child: dev0 snapshot a
                child: cpu write a[0] 2
                dev0 snapshot a
                child: dev0 snapshot a
                cpu read a
                child: cpu read a
                child: exit
                cpu read a

                """) == [
                    "ok", "ok", "ok pages=4 values 1*4", "ok", "ok 21*4", "ok 21*4", "ok", "ok 01 21*3",
                    "ok 02 21*3", "1*4", "2 1*3", "ok", "1*4",
                ])
    }

    /// A child's page comes home protected before it is exclusive; to lift that is no write of the child's.
    @Test("the handler thread tells mirrors of no write that nobody made", arguments: ["", "sigbus"])
    func protectionIsLiftedForDevices(without: String) async throws {
        let answers = try await play(
            """
            map a 1 rw
            cpu write a[0] 3
            fork child1
            dev0 migrate a
            child1: dev0 exclusive a[0]
            child1: dev0 migrate a[0]

            """, without: without)
        #expect(answers.last == "ok pages=1 values 3")
    }

    @Test func racesHaveThreads() async throws {
        let answers = try await play(
            """
            map a 64 rw
            cpu write a 1
            race
            thread cpu
            cpu write a 2
            cpu read a
            thread device
            dev0 migrate a
            dev0 read a
            end
            cpu read a

            """)
        #expect(answers.count == 7)
        // The device may read a page that the CPU is in the middle of; the CPU reads what it wrote, wherever it went.
        #expect(answers[3] == "2*64" && answers.last == "2*64")
    }

    @Test func whatGoesWrongIsSaidInWords() async throws {
        let answer = try await BuiltCommand.run(
            ["run", "--live", "--format", "json", "-"], input: "== a\nmap a 512 rw hugetlb shared\n")
        let isThere = answer.output.contains("\"result\":\"ok\"")
        #expect(isThere || answer.output.contains("nr_hugepages"))
    }
}

@Suite("What the live player and its processes say")
struct LiveMessageTests {
    @Test(arguments: [
        LiveRequest.run(
            line: 7, ownThread: true,
            twins: [Twin(pages: 1..<2, isHeard: true), Twin(pages: 4..<9, isHeard: false)]),
        .bringHome(device: 2, isReleased: false), .end,
        .follow(SharedMove(pages: RegionPages(region: 1, pages: 3..<9), device: nil)),
        .walk(RegionPages(region: 1, pages: 3..<9)), .look(RegionPages(region: 1, pages: 3..<9)),
        .run(line: 8, ownThread: false, twins: []),
    ])
    func requestsReadBack(request: LiveRequest) {
        #expect(LiveRequest(text: request.text) == request)
    }

    @Test func repliesReadBack() {
        let pages = RegionPages(region: 0, pages: 1..<4)
        let reply = LiveReply(
            line: 3, result: .values(RunLengths([.zero, .seed(4)])), note: "in words",
            effects: [
                .forked(process: 1, pid: 99), .shared(child: 1, pages),
                .moved(SharedMove(pages: pages, device: 1)), .left(pages), .collected(pages),
                .mapped(pages), .closed(device: 0), .released(device: 1), .broken("a b c"),
            ])
        #expect(LiveReply(text: reply.text) == reply)
        #expect(LiveReply(text: "x\tok\t") == nil)
        #expect(LiveReply(text: "1\tok\t\tshared 1") == nil)
    }

    @Test func pagesAreSharedUntilSomebodyLeaves() {
        var groups = ShareGroups(processCount: 3)
        func others(_ process: Int) -> [String] {
            let all = RegionPages(region: 0, pages: 0..<8)
            return groups.others(SharedMove(pages: all, device: 1), of: process)
                .map { "\($0.process): \($0.move.text)" }
        }
        groups.fork(1, of: 0, sharing: [RegionPages(region: 0, pages: 0..<6)])
        groups.fork(2, of: 1, sharing: [RegionPages(region: 0, pages: 0..<2)])
        #expect(others(0) == ["1: 0 0 6 1", "2: 0 0 2 1"])
        groups.leave(RegionPages(region: 0, pages: 3..<4), by: 1)
        #expect(others(0) == ["1: 0 0 3 1", "1: 0 4 6 1", "2: 0 0 2 1"])
        groups.leaveAll(by: 0)
        #expect(others(0).isEmpty && others(1) == ["2: 0 0 2 1"])
    }

    @Test("a walk goes from the oldest on, to the last who maps the page")
    func walksEnd() {
        let page = RegionPages(region: 0, pages: 4..<5)
        var groups = ShareGroups(processCount: 4)
        for child in 1...3 { groups.fork(child, of: 0, sharing: [page]) }
        groups.leave(page, by: 1)
        groups.leave(page, by: 3)
        // 1 hears of it, although the page is not its own any more; 3 would come after the last.
        #expect(groups.walks(page, 0, mappers: [:]).map(\.process) == [1, 2])
        #expect(groups.twins(of: page, 0, mappers: [:]) == [Twin(pages: 4..<5, isHeard: true)])
        // Nobody is left when 2 has unmapped it and 0 was reached.
        #expect(groups.walks(page, 2, mappers: [:]).map(\.process) == [0])
        #expect(groups.twins(of: page, 2, mappers: [:]) == [Twin(pages: 4..<5, isHeard: false)])
    }

    @Test("of shared memory a child comes right behind its parent")
    func sharedMemoryHasItsOwnOrder() {
        let page = RegionPages(region: 2, pages: 0..<1)
        var groups = ShareGroups(processCount: 3)
        groups.mapFile(2, by: 0)
        groups.fork(1, of: 0, sharing: [])
        groups.fork(2, of: 0, sharing: [])
        #expect(groups.walks(page, 0, mappers: [page: [2]]).map(\.process) == [2])
        #expect(groups.walks(page, 0, mappers: [page: [1]]).map(\.process) == [1, 2])
        #expect(groups.walks(page, 0, mappers: [:]).isEmpty)
    }
}
