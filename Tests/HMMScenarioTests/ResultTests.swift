import HMM
import HMMScenario
import Testing

@Suite("Result lines")
struct ResultTests {
    @Test func resultsPrintAsRecorded() {
        let values = RunLengths<PageValue>([.zero, .zero, .seed(7), .segmentationFault, .busError, .torn])
        #expect(StatementResult.ok.text == "ok")
        #expect(StatementResult(HMMError(.badAddress)).text == "error EFAULT")
        #expect(StatementResult.values(values).text == "0*2 7 ! B x")
        #expect(StatementResult.request([.init("pages", 3)], values: nil).text == "ok pages=3")
        #expect(
            StatementResult.request([.init("pages", 6), .init("faults", 1)], values: values).text
                == "ok pages=6 faults=1 values 0*2 7 ! B x")
        #expect(StatementResult.snapshot(RunLengths([0, 0, 0xff, 0x11, 0x06])).text == "ok 00*2 ff 11 06")
        #expect(StatementResult.values(values).isTorn)
    }

    @Test(arguments: [
        "ok", "error EFAULT", "0*2 7 ! B x", "ok pages=3", "ok pages=6 faults=1 values 0*2 7 ! B x*3",
        "ok 00*2 ff 11 06*512", "failed: nobody answers",
    ])
    func resultsReadBack(text: String) {
        #expect(StatementResult(text: text)?.text == text)
    }

    @Test(arguments: ["", "ok ", "ok pages=x", "1**2", "1*1", "y", "error", "ok 1ff", "ok pages=1 value 3"])
    func whatNoResultHasIsRefused(text: String) {
        #expect(StatementResult(text: text) == nil)
    }

    @Test func pagePatternReadsBack() {
        withPage { words in
            #expect(PagePattern.value(of: .init(words), page: 3) == .zero)
            PagePattern.fill(words, seed: 9, page: 3)
            #expect(words[5] == 9 << 40 | 3 << 12 | 5)
            #expect(PagePattern.value(of: .init(words), page: 3) == .seed(9))
            #expect(PagePattern.value(of: .init(words), page: 2) == .torn)
            words[511] = 0
            #expect(PagePattern.value(of: .init(words), page: 3) == .torn)
        }
    }

    @Test func oneForeignWordTearsAPage() {
        withPage { words in
            words[511] = 1
            #expect(PagePattern.value(of: .init(words), page: 0) == .torn)
            PagePattern.fill(words, seed: 0xff_ffff, page: (1 << 20) - 1)
            #expect(PagePattern.value(of: .init(words), page: (1 << 20) - 1) == .seed(0xff_ffff))
            words[0] = 0
            #expect(PagePattern.value(of: .init(words), page: (1 << 20) - 1) == .torn)
        }
    }

    private func withPage(_ body: (UnsafeMutableBufferPointer<UInt64>) -> Void) {
        var page = [UInt64](repeating: 0, count: Geometry.wordsPerPage)
        page.withUnsafeMutableBufferPointer { body($0) }
    }

    @Test(arguments: [
        ("ok", "ok", true), ("ok", "ok pages=1", false), ("*", "", true), ("*", "anything at all", true),
        ("ok *", "ok pages=4 faults=1", true), ("ok *", "ok", false), ("0*130", "0*130", true),
        ("0*130", "0*13 130", false), ("!*2", "!*2", true), ("1*", "1*6 2", true), ("pages=*", "pages=3", true),
        ("ok * values 1*4", "ok pages=4 faults=0 values 1*4", true),
        ("ok * values 1*4", "ok pages=4 faults=0 values 1*3", false), ("*5", "1 5", true),
        ("error E*", "error EBUSY", true),
    ])
    func expectationMatches(pattern: String, result: String, matches: Bool) {
        let expectation = Expectation(position: SourcePosition(line: 1, column: 1), alternatives: ["no", pattern])
        #expect(expectation.matches(result) == matches)
    }
}
