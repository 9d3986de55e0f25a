import Testing

@testable import HMM

/// Each wart of the reference driver, with it and without it. W2 is `DmirrorTests.pageBehind`.
@Suite("Warts of the reference driver")
struct DmirrorWartTests {
    static let profiles: [KernelProfile] = [.linux6_12, .next]

    private func withWords<R>(_ count: Int, _ body: (UnsafeMutableBufferPointer<UInt64>) throws -> R) rethrows -> R {
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: count * 512)
        defer { words.deallocate() }
        return try body(words)
    }

    @Test("W3: a device write to its own page that fork made read-only", arguments: profiles)
    func writeToOwnReadOnlyPage(profile: KernelProfile) throws {
        let f = try DmirrorFixture(profile)
        try f.map(0..<4)
        try f.cpuWrite(0..<4, 7)
        _ = try withWords(4) { try f.mirrors[0].migrate(f.pages(0..<4), into: $0) }
        let child = try f.space.fork()
        #expect(try f.snapshot(0..<4) == "21 21 21 21")
        if profile.testDriverHasWarts {
            #expect(throws: HMMError(.badAddress)) { _ = try f.write(1..<3, 9) }
        } else {
            _ = try f.write(1..<3, 9)
            #expect(try f.cpuRead(1) == 9)
        }
        let cpu = child.makeCPU()
        for page in f.pages(0..<4) { #expect(try cpu.load(page.address) == 7) }
        #expect(f.machine.checkInvariants() == [])
        child.removeCPU(cpu)
        child.exit()
    }

    @Test("W3: in a read-only mapping the write is refused either way", arguments: profiles)
    func writeToReadOnlyMapping(profile: KernelProfile) throws {
        let f = try DmirrorFixture(profile)
        try f.map(0..<2)
        try f.cpuWrite(0..<2, 7)
        try f.space.protect(f.pages(0..<2), .read)
        _ = try withWords(2) { try f.mirrors[0].migrate(f.pages(0..<2), into: $0) }
        let error: HMMError.Code = profile.testDriverHasWarts ? .badAddress : .notPermitted
        #expect(throws: HMMError(error)) { _ = try f.write(0..<2, 9) }
        #expect(try f.cpuRead(0) == 7)
        #expect(f.machine.checkInvariants() == [])
    }

    @Test("W4: what a migration answers when one page cannot move", arguments: profiles)
    func migrationBesideASwappedPage(profile: KernelProfile) throws {
        let f = try DmirrorFixture(profile)
        try f.map(0..<4)
        try f.cpuWrite(0..<4, 7)
        try f.space.advise(f.pages(3..<4), .pageout)
        if profile.testDriverHasWarts {
            #expect(throws: HMMError(.noEntry)) {
                _ = try withWords(4) { try f.mirrors[0].migrate(f.pages(0..<4), into: $0) }
            }
        } else {
            let answer = try withWords(4) { try f.mirrors[0].migrate(f.pages(0..<4), into: $0) }
            #expect(answer.pages == 4 && answer.moved == 3)
        }
        for page in 0..<4 { #expect(try f.cpuRead(page) == 7) }
        #expect(f.machine.checkInvariants() == [])
    }

    @Test("W5: whose pages go home when a mirror closes", arguments: profiles)
    func closeOfOneOfTwoMirrors(profile: KernelProfile) throws {
        let f = try DmirrorFixture(profile)
        try f.map(0..<4)
        try f.cpuWrite(0..<4, 7)
        _ = try withWords(4) { try f.mirrors[0].migrate(f.pages(0..<4), into: $0) }
        let other = try f.machine.makeAddressSpace()
        let stranger = try f.devices[0].open(other)
        stranger.close()
        other.exit()
        #expect(f.devices[0].memory.usedFrames == (profile.testDriverHasWarts ? 0 : 4))
        for page in 0..<4 { #expect(try f.cpuRead(page) == 7) }
        #expect(f.machine.checkInvariants() == [])
    }

    @Test("W8: a shared page that only the device wrote, after page-out", arguments: profiles)
    func deviceWriteToSharedPage(profile: KernelProfile) throws {
        let f = try DmirrorFixture(profile)
        try f.space.map(f.pages(0..<1), protection: .readWrite, kind: .sharedAnonymous)
        _ = try f.read(0..<1)
        #expect(try f.snapshot(0..<1) == "02")
        _ = try f.write(0..<1, 9)
        try f.space.advise(f.pages(0..<1), .pageout)
        #expect(try f.cpuRead(0) == (profile.testDriverHasWarts ? 0 : 9))
        #expect(f.machine.checkInvariants() == [])
    }
}
