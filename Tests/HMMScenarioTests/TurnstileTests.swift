import HMM
import Synchronization
import Testing

@testable import HMMScenario

@Suite("Locks of the player")
struct TurnstileTests {
    @Test func oneAtATimeIsInsideATurnstile() {
        final class Shared: @unchecked Sendable {
            let turnstile = Turnstile()
            var count = 0
        }
        let shared = Shared()
        let threads = (0..<4).map { index in
            SyncThread.spawn(name: "t\(index)") {
                for _ in 0..<10_000 { shared.turnstile.with { shared.count += 1 } }
            }
        }
        threads.forEach { $0.join() }
        #expect(shared.count == 40_000)
    }

    @Test func whoShutsAGateWaitsForThoseInside() {
        let gate = Gate()
        let inside = Atomic<Int>(0)
        let wasInside = Atomic<Int>(0)
        let threads = (0..<4).map { index in
            SyncThread.spawn(name: "t\(index)") {
                while gate.enter() {
                    inside.add(1, ordering: .sequentiallyConsistent)
                    wasInside.add(1, ordering: .sequentiallyConsistent)
                    SyncThread.yield()
                    inside.subtract(1, ordering: .sequentiallyConsistent)
                    gate.leave()
                }
            }
        }
        while wasInside.load(ordering: .sequentiallyConsistent) < 100 { SyncThread.yield() }
        #expect(gate.shutAndWait())
        #expect(inside.load(ordering: .sequentiallyConsistent) == 0)
        #expect(!gate.enter())
        #expect(!gate.shutAndWait())
        threads.forEach { $0.join() }
    }
}
