import Synchronization
import Testing

@testable import HMM

/// What a switch of the profile changes, for the switches that no other suite turns.
@Suite("Kernel profiles")
struct KernelProfileTests {
    private static let owner = NotifierOwner(device: 7, mirror: 1)

    private static func fixture(_ profile: KernelProfile) throws -> Fixture {
        let f = try Fixture { $0.profile = profile }
        try f.space.map(f.pages(0..<4), protection: .readWrite, kind: .anonymous())
        try f.write(0..<4, 1)
        return f
    }

    private static func grant(_ f: Fixture, _ i: Int) throws(HMMError) -> ExclusiveGrant {
        f.space.lockForReading()
        defer { f.space.unlockForReading() }
        return try f.space.makeExclusive(f.pages(i..<i + 1).lowerBound, owner: owner)
    }

    private final class Flag: Sendable {
        private let value = Atomic<Bool>(false)
        var isSet: Bool { value.load(ordering: .acquiring) }
        func set() { value.store(true, ordering: .releasing) }
        func wait() { while !isSet { SyncClock.sleep(nanoseconds: 100_000) } }
    }

    /// Runs `body` while another thread has the page exclusively and its folio locked.
    private static func whileLocked(_ f: Fixture, _ i: Int, _ body: () throws -> Void) rethrows {
        let (isHeld, isOver) = (Flag(), Flag())
        let space = f.space
        let page = f.pages(i..<i + 1).lowerBound
        let holder = SyncThread.spawn(name: "holder") {
            space.lockForReading()
            guard let grant = try? space.makeExclusive(page, owner: owner) else { fatalError("no grant") }
            space.unlockForReading()
            isHeld.set()
            isOver.wait()
            grant.release()
        }
        isHeld.wait()
        defer {
            isOver.set()
            holder.join()
        }
        try body()
    }

    @Test("forkFailsOnLockedExclusive: 6.12 fails with ENOMEM")
    func forkFailsAtALockedExclusivePage() throws {
        let f = try Self.fixture(.linux6_12)
        Self.whileLocked(f, 2) {
            #expect(throws: HMMError(.outOfMemory)) { _ = try f.space.fork() }
        }
        f.checkInvariants()
        try f.space.fork().exit()
        try f.expect(0..<4, 1)
        f.finish()
    }

    @Test("forkFailsOnLockedExclusive: next waits for the unlock")
    func forkWaitsAtALockedExclusivePage() throws {
        let f = try Self.fixture(.next)
        let space = f.space
        let hasForked = Flag()
        var forker: SyncThread?
        Self.whileLocked(f, 2) {
            forker = SyncThread.spawn(name: "fork") {
                guard let child = try? space.fork() else { return }
                hasForked.set()
                child.exit()
            }
            SyncClock.sleep(nanoseconds: 2_000_000)
            #expect(!hasForked.isSet)
        }
        forker?.join()
        #expect(hasForked.isSet)
        f.checkInvariants()
        try f.expect(0..<4, 1)
        f.finish()
    }

    @Test(
        "exclusiveRemembersWrite: after read-only and back, 6.12 restores without the right to write",
        arguments: [KernelProfile.linux6_12, .next])
    func protectAndBackWhileExclusive(profile: KernelProfile) throws {
        let f = try Self.fixture(profile)
        try Self.grant(f, 0).release()
        try Self.grant(f, 1).release()
        try f.space.protect(f.pages(1..<2), .read)
        try f.space.protect(f.pages(1..<2), .readWrite)
        try f.expect(0..<2, 1)
        let untouched = try #require(f.space.leaf(f.pages(0..<1).lowerBound)).0
        let protected = try #require(f.space.leaf(f.pages(1..<2).lowerBound)).0
        #expect(untouched.isWritable)
        #expect(protected.isWritable != profile.exclusiveRemembersWrite)
        // Either way the program notices nothing.
        try f.write(0..<2, 2)
        try f.expect(0..<2, 2)
        f.checkInvariants()
        f.finish()
    }
}
