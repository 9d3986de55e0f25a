import Synchronization
import Testing

@testable import HMM

/// Aim: a range fault reports exactly what the CPU's tables hold, faults exactly what was asked, and fails with exactly
/// the error that the specification names.
/// Method: layouts drawn as rows of letters (see the fixture), one fact each.
@Suite("Range fault")
struct RangeFaultTests {
    @Test("a snapshot shows holes, zero pages, written pages, protection and gaps, and changes nothing")
    func snapshot() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<4)
        try f.map(6..<8, .none)
        try f.touch(0..<1, write: false)
        try f.touch(1..<2)
        let used = f.machine.frames.system.usedFrames
        #expect(try f.letters(0..<10) == "rw..EEEEEE")
        #expect(try f.letters(0..<10) == "rw..EEEEEE", "INV-RF-3, INV-DM-7")
        #expect(f.machine.frames.system.usedFrames == used)
        let leaf = f.space.leaf(RangeFaultFixture.base.advanced(by: 2))
        #expect(leaf?.0.isNone ?? true, "INV-RF-3: a hole stays a hole")
    }

    @Test("INV-RF-2: what is requested becomes present, and writable where that was asked")
    func faultsIn() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<6)
        try f.touch(1..<2, write: false)
        #expect(try f.letters(0..<3, .fault) == "rrr")
        #expect(try f.letters(0..<6, [.fault, .write]) == "wwwwww")
        #expect(try f.letters(0..<6) == "wwwwww")
    }

    @Test("a write without a fault asks nothing")
    func writeAlone() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<2)
        #expect(try f.letters(0..<2, .write) == "..")
    }

    @Test("INV-RF-5: each error where it belongs, in the order of addresses")
    func errors() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<2)
        try f.map(2..<4, .read)
        try f.map(6..<8, .none)
        #expect(throws: HMMError(.notPermitted)) { try f.letters(0..<6, [.fault, .write]) }
        #expect(try f.letters(0..<4) == "ww..", "pages before the error stay faulted in")
        #expect(throws: HMMError(.badAddress)) { try f.letters(2..<6, .fault) }
        #expect(try f.letters(2..<4) == "rr")
        #expect(throws: HMMError(.badAddress)) { try f.letters(6..<8, .fault) }
        #expect(throws: HMMError(.badAddress)) { try f.letters(6..<8, [.fault, .write]) }
        #expect(throws: HMMError(.badAddress)) { try f.letters(4..<6, .fault) }
        try f.space.protect(f.region(0..<2), .none)
        #expect(throws: HMMError(.badAddress), "PROT_NONE wins over EPERM") { try f.letters(0..<4, [.fault, .write]) }
    }

    @Test("an access beyond the end of a file is EFAULT")
    func beyondFile() throws {
        let f = try RangeFaultFixture()
        let file = try f.machine.makeFile(pageCount: 2)
        try f.space.map(f.region(0..<4), protection: .readWrite, kind: .sharedFile(file))
        #expect(throws: HMMError(.badAddress)) { try f.letters(0..<4, .fault) }
        #expect(try f.letters(0..<2, [.fault, .write]) == "ww")
    }

    @Test("empty ranges and ranges outside the interval are EINVAL")
    func badRanges() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<4)
        let small = try f.space.notifiers.insert(f.client, over: f.region(0..<2))
        defer { small.remove() }
        var empty = HMMRange(f.interval, f.region(1..<1))
        var outside = HMMRange(small, f.region(0..<3))
        do {
            try f.fault(&empty)
            Issue.record("an empty range was accepted")
        } catch { #expect(error == HMMError(.invalidArgument)) }
        do {
            try f.fault(&outside)
            Issue.record("a range outside its interval was accepted")
        } catch { #expect(error == HMMError(.invalidArgument)) }
    }

    @Test("a moved sequence ends the call before it does anything")
    func sequenceMoved() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<2)
        var range = HMMRange(f.interval, f.region(0..<2))
        range.defaultRequest = .fault
        range.sequence = f.interval.readBegin()
        Invalidation.begin(f.space.notifiers, InvalidationRange(.clear, f.region(1..<2))).end()
        f.space.lockForReading()
        #expect(try f.space.rangeFault(&range) == .sequenceMoved)
        f.space.unlockForReading()
        #expect(try f.letters(0..<2) == "..")
    }

    @Test("INV-RF-4: a huge leaf shows its order, rights and contiguous frames in every page", arguments: [true, false])
    func hugeLeaf(write: Bool) throws {
        let f = try RangeFaultFixture()
        try f.map(0..<1024, huge: true)
        let request: HMMPageRequest = write ? [.fault, .write] : .fault
        let range = try f.fault(500..<530, request)
        let half = write ? "W" : "R"
        #expect(RangeFaultFixture.letters(range) == String(repeating: half, count: 30))
        for index in 0..<12 { #expect(range[index].frame == range[0].frame + index && range[index].order == 9) }
        for index in 12..<30 { #expect(range[index].frame == range[12].frame + (index - 12)) }
        let first = RangeFaultFixture.base.advanced(by: 512)
        #expect(range[first].frame.raw % 512 == 0)
        // A write to the huge zero page splits its leaf.
        #expect(try f.letters(512..<514, [.fault, .write]) == (write ? "WW" : "ww"))
    }

    @Test("swapped pages are nothing in a snapshot, and come back when requested")
    func swap() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<4)
        try f.touch(0..<4)
        try f.space.advise(f.region(0..<4), .pageout)
        #expect(try f.letters(0..<4) == "....")
        let range = try f.fault(0..<4, .fault)
        #expect(RangeFaultFixture.letters(range) == "wwww")
        #expect(try f.cpu.load(RangeFaultFixture.base.advanced(by: 3).address) == 4)
    }

    @Test("after fork pages are read-only, and a write request copies them")
    func fork() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<2)
        try f.touch(0..<2)
        let child = try f.space.fork()
        #expect(try f.letters(0..<2) == "rr")
        #expect(try f.letters(0..<2, .fault) == "rr")
        #expect(try f.letters(0..<2, [.fault, .write]) == "ww")
        child.exit()
    }

    // MARK: Requests of single pages

    @Test("the effective request is the page's own, masked, together with the default")
    func mask() throws {
        let f = try RangeFaultFixture(.next)
        try f.map(0..<4)
        var range = HMMRange(f.interval, f.region(0..<4))
        range.setRequest(.fault, at: 1)
        range.setRequest([.fault, .write], at: 2)
        try f.fault(&range)
        #expect(RangeFaultFixture.letters(range) == "....", "the mask is empty: own requests do not count")
        range.clearRequests()
        range.setRequest(.fault, at: 1)
        range.setRequest([.fault, .write], at: 2)
        range.requestMask = [.fault, .write]
        while try f.fault(&range) == .sequenceMoved {}
        #expect(RangeFaultFixture.letters(range) == ".rw.", "INV-FQ-2: pages nobody asked for stay as they are")
        #expect(try f.letters(0..<4) == ".rw.")
    }

    @Test("[K] a fault runs to the end of the piece, also over pages that nobody asked for")
    func runsToTheEnd() throws {
        let f = try RangeFaultFixture(.linux6_12)
        try f.map(0..<4)
        try f.touch(0..<1, write: false)
        var range = HMMRange(f.interval, f.region(0..<4))
        range.requestMask = [.fault, .write]
        range.setRequest([.fault, .write], at: 1)
        while try f.fault(&range) == .sequenceMoved {}
        #expect(try f.letters(0..<4) == "rwww", "pages before the first that needs a fault keep what they have")
    }

    @Test("a write request for one page breaks the sharing of that page only")
    func oneWrite() throws {
        let f = try RangeFaultFixture(.next)
        try f.map(0..<4)
        try f.touch(0..<4)
        let child = try f.space.fork()
        var range = HMMRange(f.interval, f.region(0..<4))
        range.defaultRequest = .fault
        range.requestMask = .write
        range.setRequest(.write, at: 2)
        while try f.fault(&range) == .sequenceMoved { range.setRequest(.write, at: 2) }
        #expect(RangeFaultFixture.letters(range) == "rrwr")
        #expect(try f.letters(0..<4) == "rrwr")
        child.exit()
    }

    @Test("INV-RF-6: the driver's marks stay, on success, restart and error")
    func marks() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<600)
        try f.touch(3..<4)
        var range = HMMRange(f.interval, f.region(0..<700))
        for index in 0..<700 { range.setMarks(index % 3 == 0 ? .dmaMapped : [.peerToPeer, .user0], at: index) }
        func check(_ range: borrowing HMMRange) {
            for index in 0..<700 {
                #expect(range.marks(at: index) == (index % 3 == 0 ? .dmaMapped : [.peerToPeer, .user0]))
            }
        }
        try f.fault(&range)
        check(range)
        range.defaultRequest = [.fault, .write]
        do {
            try f.fault(&range)
            Issue.record("the end of the mapping was not noticed")
        } catch { #expect(error == HMMError(.badAddress)) }
        check(range)
        #expect(range[3].isValid)
    }

    @Test("INV-RF-1: frames are those of the CPU's entries")
    func frames() throws {
        let f = try RangeFaultFixture()
        try f.map(0..<64)
        try f.touch(0..<64)
        let range = try f.fault(0..<64)
        for index in 0..<64 {
            let words = f.machine.frames.words(of: range[index].frame)
            #expect(words[0].load(ordering: .relaxed) == UInt64(index) + 1)
        }
        var covered = 0
        range.forEachValidRun { run in
            covered += run.pages.pageCount
            #expect(run.isWritable && run.order == 0)
        }
        #expect(covered == 64)
    }

    @Test("every allocation that fails gives a typed error and loses nothing", arguments: [false, true])
    func allocationFailures(huge: Bool) throws {
        for n in 1...40 {
            let f = try RangeFaultFixture()
            try f.map(0..<1024, huge: huge)
            try f.touch(600..<601)
            f.machine.faultInjector.failAllocation(n, repeating: true)
            do {
                _ = try f.letters(100..<700, [.fault, .write])
            } catch { #expect(error == HMMError(.outOfMemory)) }
            _ = f.machine.faultInjector.disarm()
            #expect(try f.letters(100..<700, [.fault, .write]).allSatisfy { $0 == "w" || $0 == "W" })
            #expect(try f.cpu.load(RangeFaultFixture.base.advanced(by: 600).address) == 601)
        }
    }
}
