import HMM
import HMMScenario
import Testing

@Suite("Reading scenarios")
struct ParserTests {
    private func parse(_ text: String) throws -> Scenario {
        try #require(try Parser.parse(text).first)
    }

    @Test func everyStatementReadsAndPrintsBack() throws {
        let text = """
            == all
            map a 130 rw
            map b 64 r file shared
            map c 4 none shared
            map d 1024 rw hugepage
            map e 512 rw hugetlb
            map f 512 rw shared hugetlb
            unmap a
            protect a[3] none
            advise a[0..<130] dontneed
            advise a populate-write
            move b
            fork child1
            child1: cpu read a
            child1: cpu write a[0..<2] 16777215
            child1: dev3 read a
            child1: exit
            device gpu coherent 64M
            gpu write a 1
            dev0 migrate a
            dev1 evict a[1]
            dev2 exclusive a
            dev0 check-exclusive a
            dev0 snapshot a
            dev0 release
            dev0 open
            dev0 close
            exit

            """
        #expect(try parse(text).text == text)
    }

    @Test func raceReadsAndPrintsBack() throws {
        let text = """
            == race
            map a 1 rw
            race
            thread one
              dev0 read a
              expect ok pages=1 faults=1 values 0|error EFAULT
            thread two
              unmap a
            end
            cpu read a
            expect !

            """
        let scenario = try parse(text)
        #expect(scenario.text == text)
        guard case .race(let race) = scenario.steps[1] else { return #expect(Bool(false)) }
        #expect(race.groups.map(\.name) == ["one", "two"])
        #expect(race.statements.map(\.line) == [4, 7])
        #expect(race.groups[0].statements[0].expectations[0].alternatives.count == 2)
    }

    @Test func linesCountFromTheHeaderWithCommentsAndBlankLines() throws {
        let text = "# about\n\n== lines # one\n# a comment\nmap a 1 rw\n\n  cpu read a# here too\r\nexpect 0\nexit\n"
        let scenario = try parse(text)
        #expect(scenario.statements.map(\.line) == [2, 4, 6])
        #expect(scenario.statements[1].position == SourcePosition(line: 7, column: 3))
    }

    @Test func regionsLieOneGiBApart() throws {
        let scenario = try parse("== r\nmap a 1 rw\nmap b 262144 rw\nmap c 1 rw\nmove a\nmap d 1 rw\n")
        let slots = scenario.regions.map { ($0.start.raw << 12) - 0x10_0000_0000 }.map { $0 >> 30 }
        #expect(slots == [0, 1, 3, 5])
        guard case .move(_, to: let target) = scenario.statements[3].operands[0] else { return #expect(Bool(false)) }
        #expect(target.raw << 12 == 0x10_0000_0000 + 4 << 30)
    }

    @Test func processesOfOneThreadAreKnownAfterTheRace() throws {
        _ = try parse("== p\nmap a 1 rw\nrace\nthread x\nfork c\nc: cpu read a\nthread y\ncpu read a\nend\nc: exit\n")
    }

    /// Each text, and the error that it must give: line, column, and the words that say what is wrong.
    static let errors: [(text: String, line: Int, column: Int, what: String)] = [
        ("map a 1 rw", 1, 1, "statement before the first scenario"),
        ("==x\n", 1, 1, "'==x'"),
        ("==\n", 1, 4, "the scenario has no name"),
        ("== a b\n", 1, 6, "'b' is too much"),
        ("== a\n== a\n", 2, 4, "the name 'a' is taken by the scenario of line 1"),
        ("== a\nmap", 2, 5, "REGION of 'map REGION PAGES PROT [KIND]…' is missing"),
        ("== a\nmap 1 1 rw", 2, 5, "'1' cannot be the name of a region"),
        ("== a\nmap a", 2, 7, "PAGES of 'map REGION PAGES PROT [KIND]…' is missing"),
        ("== a\nmap a 0 rw", 2, 7, "0 is out of bounds"),
        ("== a\nmap a -1 rw", 2, 7, "'-1' is no number"),
        ("== a\nmap a 99999999999999999999999 rw", 2, 7, "99999999999999999999999 is out of bounds"),
        ("== a\nmap a 1048577 rw", 2, 7, "1048577 is out of bounds"),
        ("== a\nmap a 1 wr", 2, 9, "'wr' is no protection"),
        ("== a\nmap a 1 rw fiel", 2, 12, "'fiel' is no kind of mapping"),
        ("== a\nmap a 1 rw file file", 2, 17, "'file' twice"),
        ("== a\nmap a 5 rw hugetlb", 2, 20, "5 pages of hugetlb memory"),
        ("== a\nmap a 512 rw hugetlb file", 2, 27, "hugetlb memory with 'file' or 'hugepage'"),
        ("== a\nmap a 1 rw\nmap a 2 rw", 3, 5, "a region 'a' is already there"),
        ("== a\nunmap b", 2, 7, "unknown region 'b'"),
        ("== a\nmap a 4 rw\nunmap a[4]", 3, 9, "page 4 is outside of 'a'"),
        ("== a\nmap a 4 rw\nunmap a[0..<5]", 3, 9, "0..<5 reaches outside of 'a'"),
        ("== a\nmap a 4 rw\nunmap a[2..<2]", 3, 9, "2..<2 has no pages"),
        ("== a\nmap a 4 rw\nunmap a[3..<2]", 3, 9, "3..<2 has no pages"),
        ("== a\nmap a 4 rw\nunmap a[0...2]", 3, 9, "'a[0...2]' is no range"),
        ("== a\nmap a 4 rw\nunmap a[0..<2", 3, 9, "'a[0..<2' is no range"),
        ("== a\nmap a 4 rw\nunmap a[99999999999999999999]", 3, 9, "page 99999999999999999999 is outside of 'a'"),
        ("== a\nmap a 4 rw\nadvise a sleep", 3, 10, "'sleep' is not an advice"),
        ("== a\nmap a 4 rw\ncpu write a", 3, 13, "SEED of 'cpu write RANGE SEED' is missing"),
        ("== a\nmap a 4 rw\ncpu write a 0", 3, 13, "0 is out of bounds"),
        ("== a\nmap a 4 rw\ncpu write a 16777216", 3, 13, "16777216 is out of bounds"),
        ("== a\nmap a 4 rw\ncpu read a 1", 3, 12, "'1' is too much"),
        ("== a\ncpu", 2, 5, "nothing behind 'cpu'"),
        ("== a\ncpu jump a", 2, 5, "'cpu' cannot 'jump'"),
        ("== a\ndev0 jump a", 2, 6, "'dev0' cannot 'jump'"),
        ("== a\nmap a 1 rw\ndev9 read a", 3, 1, "unknown device 'dev9'"),
        ("== a\njump a", 2, 1, "unknown statement 'jump'"),
        ("== a\nchild: exit", 2, 1, "unknown process 'child'"),
        ("== a\nfork main", 2, 6, "a process 'main' is already there"),
        ("== a\nfork c\nc: exit\nc: fork d", 4, 1, "process 'c' has exited"),
        ("== a\nmain:", 2, 7, "nothing behind 'main:'"),
        ("== a\ndevice dev0 private 64M", 2, 8, "a device 'dev0' is already there"),
        ("== a\ndevice cpu private 64M", 2, 8, "'cpu' begins a statement"),
        ("== a\ndevice x public 64M", 2, 10, "'public' is not a kind of device"),
        ("== a\ndevice x private 64Q", 2, 18, "'64Q' is no size"),
        ("== a\ndevice x private 3K", 2, 18, "3K of device memory"),
        ("== a\ndevice x private 99999999T", 2, 18, "'99999999T' is no size"),
        ("== a\nexpect ok", 2, 1, "'expect' without a statement"),
        ("== a\nmap a 1 rw\nexpect", 3, 8, "nothing is expected"),
        ("== a\nmap a 1 rw\nexpect ok|", 3, 8, "an alternative is empty"),
        ("== a\nrace\nend", 3, 1, "the race has no threads"),
        ("== a\nrace\nrace\nthread x\nend", 3, 1, "'race' inside a race"),
        ("== a\nrace\nthread x\n", 2, 1, "'race' without 'end'"),
        ("== a\nend", 2, 1, "'end' outside a race"),
        ("== a\nthread x", 2, 1, "'thread' outside a race"),
        ("== a\nrace\nexit\nthread x\nend", 3, 1, "statement between 'race' and 'thread'"),
        ("== a\nrace\nthread x\nthread x\nend", 4, 8, "a thread 'x' is already there"),
        ("== a\nrace\nthread x\nexit\nend\nexpect ok", 6, 1, "'expect' without a statement"),
        (
            "== a\nrace\nthread x\nfork c\nthread y\nc: exit\nend", 6, 1,
            "process 'c' is forked by another thread of this race"
        ),
        ("== a\nrace\nthread x\ndevice d private 64M\nend", 4, 1, "'device' inside a race"),
    ]

    @Test(arguments: errors)
    func errorSaysWhereAndWhat(text: String, line: Int, column: Int, what: String) throws {
        let errors = try #require(throws: ScenarioErrors.self) { _ = try Parser.parse(text) }
        #expect(errors.diagnostics.map(\.what) == [what])
        #expect(errors.diagnostics.first?.position == SourcePosition(line: line, column: column))
        #expect(errors.diagnostics.first?.expected.isEmpty == false)
    }

    @Test func allErrorsOfAFileAreCollected() throws {
        let text = "== a\nmap a x rw\ncpu read a[9]\nfoo\n== b\nmap a 1 rw\ncpu read b\n"
        let errors = try #require(throws: ScenarioErrors.self) { _ = try Parser.parse(text) }
        // The bad size of `a` is one error, not one more at each use of `a`.
        #expect(errors.diagnostics.map(\.position.line) == [2, 4, 7])
        #expect(
            errors.diagnostics[0].description(file: "f.hmm")
                == "f.hmm:2:7: 'x' is no number, expected a number of pages from 1 to 1048576")
    }
}
