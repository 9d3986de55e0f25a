import HMM
import Testing

@testable import HMMExplorer

@Suite("Replay")
struct ReplayTests {
    /// Two increments without a lock, wrong in every fourth way to order them.
    private func lostUpdate(_ scene: Scene) {
        let word = SharedWord()
        for name in ["a", "b"] {
            scene.thread(name) {
                scene.mark("increment")
                word.store(word.load() + 1)
            }
        }
        scene.name(word.address, "counter")
        scene.join()
        scene.check(word.now == 2, "the counter is \(word.now)")
    }

    private func options(_ strategy: ExplorationStrategy) -> ExplorationOptions {
        var options = ExplorationOptions()
        options.strategy = strategy
        options.program = "lost update"
        options.seed = 7
        return options
    }

    @Test("More preemptions than any schedule has are as good as all")
    func largeBound() {
        let all = explore(options(.unreduced)) { scene in _ = FineSteps.all[0].body(scene) }
        let bounded = explore(options(.bounded(.max))) { scene in _ = FineSteps.all[0].body(scene) }
        #expect(bounded.isComplete && bounded.schedules == all.schedules)
    }

    @Test("A notifier that nobody removed is left over, though its address space is gone")
    func forgottenNotifier() {
        final class Deaf: IntervalNotifierClient {
            func invalidate(_: IntervalNotifier, _: InvalidationRange, sequence: UInt64) -> Bool { true }
        }
        for isRemoved in [true, false] {
            let exploration = explore(options(.exhaustive)) { scene in
                let (space, client) = (try scene.machine.makeAddressSpace(), Deaf())
                let interval = try space.notifiers.insert(client, over: PageNumber(0)..<PageNumber(1))
                withExtendedLifetime(client) { space.exit() }
                if isRemoved { interval.remove() }
            }
            #expect(exploration.failure?.kind == (isRemoved ? nil : .leftover))
            #expect(exploration.failure?.what.contains("1 notifiers of address spaces that are gone") ?? true)
        }
    }

    @Test("A token says the same as text, and reads back")
    func roundTrip() throws {
        var generator = SystemRandomNumberGenerator()
        for length in 0..<50 {
            var step = 0
            let detours = (0..<length).map { _ in
                step += Int.random(in: 0...5000, using: &generator)
                return Schedule.Detour(step: step, thread: Int.random(in: 0..<16, using: &generator))
            }
            let token = ReplayToken(
                schedule: Schedule(detours: detours), program: "p\(length)",
                seed: UInt64.random(in: 0...UInt64.max, using: &generator), stepLimit: 4_000)
            let text = token.description
            #expect(try ReplayToken(text) == token)
            #expect(text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-" || $0 == "_") })
        }
    }

    @Test("A token with a wrong or missing character is refused")
    func damage() throws {
        let token = ReplayToken(
            schedule: Schedule(detours: [.init(step: 3, thread: 1)]), program: "p", seed: 1, stepLimit: 4_000)
        let text = Array(token.description)
        for index in 3..<text.count {
            var other = text
            other[index] = text[index] == "A" ? "B" : "A"
            #expect(throws: ReplayTokenError.damaged) { try ReplayToken(String(other)) }
        }
        #expect(throws: ReplayTokenError.damaged) { try ReplayToken(String(text.dropLast())) }
        #expect(throws: ReplayTokenError.unknownVersion("2")) { try ReplayToken("x2-" + String(text[3...])) }
        #expect(throws: ReplayTokenError.noToken("hello")) { try ReplayToken("hello") }
        #expect(throws: ReplayTokenError.damaged) { try ReplayToken("x1-") }
    }

    @Test("A token of another program is refused")
    func otherProgram() throws {
        let token = ReplayToken(schedule: Schedule(), program: "p", seed: 1, stepLimit: 4_000)
        var options = options(.exhaustive)
        #expect(throws: ReplayTokenError.otherProgram) { try options.replay(token) }
    }

    @Test("A failure of every strategy is shrunk, and its token reproduces it 100 times of 100",
        arguments: [ExplorationStrategy.exhaustive, .bounded(2), .pct(3), .random, .unreduced])
    func reproduces(_ strategy: ExplorationStrategy) throws {
        let failure = try #require(explore(options(strategy), lostUpdate).failure)
        #expect(failure.kind == .assertion)
        #expect(failure.what == "the counter is 1")
        #expect(failure.preemptions == 1)
        for _ in 0..<100 {
            var options = options(.exhaustive)
            try options.replay(ReplayToken("\(failure.token)"))
            let again = try #require(explore(options, lostUpdate).failure)
            #expect(again.what == failure.what)
            #expect(again.token == failure.token)
            #expect(again.steps == failure.steps)
            let text = failure.description.replacing("schedule \(failure.schedules);", with: "schedule 1;")
            #expect(again.description == text)
        }
    }

    @Test("What does not go wrong again is not deterministic")
    func notReproducible() throws {
        var runs = 0
        let failure = try #require(
            explore(options(.random)) { scene in
                runs += 1
                let word = SharedWord()
                for name in ["a", "b"] { scene.thread(name) { word.store(word.load() + 1) } }
                scene.join()
                scene.check(runs != 3, "the third run")
            }.failure)
        #expect(failure.kind == .nondeterminism)
        #expect(failure.what.contains("the third run"))
    }
}
