import HMM
import Testing

@testable import HMMExplorer

@Suite("How a failure is told")
struct ReportTests {
    @Test("A lost update, in two columns")
    func lostUpdate() throws {
        let failure = try #require(
            explore { scene in
                let word = SharedWord()
                scene.name(word.address, "counter")
                for name in ["first", "second"] {
                    scene.thread(name) {
                        scene.mark("increment")
                        word.store(word.load() + 1)
                    }
                }
                scene.join()
                scene.check(word.now == 2, "the counter is \(word.now)")
            }.failure)
        let lines = failure.description.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines.dropLast() == Self.lostUpdateText.split(separator: "\n", omittingEmptySubsequences: false))
        #expect(lines.last == "replay: \(failure.token)")
    }

    private static let lostUpdateText = """
        assertion: the counter is 1
        found in schedule 2; shown with 6 steps and 1 preemption

        first            │ second
        ─────────────────┼─────────────────
        increment        │
          reads counter  │
                         │ increment
                         │   reads counter
                         │   writes counter
          writes counter │
        ✗ found wrong at the end

        """

    @Test("Sleepers that nobody wakes are named, with what they sleep on")
    func deadlock() throws {
        let failure = try #require(
            explore { scene in
                let (word, box) = (SharedWord(), MutexBox())
                scene.name(word.address + 1, "bell")
                scene.name(box.mutex, "driver lock")
                scene.thread("sleeper") {
                    box.mutex.lock()
                    WaitQueue.wait(on: word.address + 1) { word.now == 0 }
                    box.mutex.unlock()
                }
                scene.thread("waker") {
                    box.mutex.lock()
                    word.store(1)
                    WaitQueue.wakeAll(word.address + 1)
                    box.mutex.unlock()
                }
                scene.join()
            }.failure)
        #expect(failure.kind == .deadlock)
        let text = failure.description
        #expect(text.contains("sleeper sleeps on bell"))
        #expect(text.contains("waker waits for driver lock, held by sleeper"))
        #expect(!text.contains("main"))
        // The last two rows say where the threads stand.
        let rows = text.split(separator: "\n").suffix(4).prefix(2)
        #expect(rows.contains { $0.contains("sleeps on bell") })
        #expect(rows.contains { $0.contains("waits for driver lock") })
    }

    @Test("A lock taken in the wrong order is named, not given by its address")
    func lockOrder() throws {
        let failure = try #require(
            explore { scene in
                let boxes = [MutexBox(), MutexBox()]
                for (index, box) in boxes.enumerated() { scene.name(box.mutex, "lock \(index)") }
                for index in 0..<2 {
                    scene.thread("\(index)") {
                        boxes[index].mutex.lock()
                        boxes[1 - index].mutex.lock()
                        boxes[1 - index].mutex.unlock()
                        boxes[index].mutex.unlock()
                    }
                }
                scene.join()
            }.failure)
        #expect(failure.kind == .lockOrder)
        #expect(failure.what == "waits for lock 1 while holding lock 0")
    }

    @Test("Steps that repeat are shown once, after a shorter while")
    func livelock() throws {
        let failure = try #require(
            explore { scene in
                let words = [SharedWord(), SharedWord()]
                for (index, word) in words.enumerated() { scene.name(word.address, "flag \(index)") }
                for index in 0..<2 {
                    scene.thread("\(index)") {
                        // Each wants the other to give in first.
                        words[index].store(1)
                        while words[1 - index].load() == 1 {
                            words[index].store(1)
                            SyncThread.yield()
                        }
                        words[index].store(0)
                    }
                }
                scene.join()
            }.failure)
        #expect(failure.kind == .livelock)
        #expect(failure.what.hasPrefix("6 steps repeat"))
        let lines = failure.description.split(separator: "\n")
        let turn = try #require(lines.firstIndex { $0.hasPrefix("↻ from here on these 6 steps repeat") })
        #expect(lines[(turn + 1)...].count { $0.contains("writes flag") } == 2)
        #expect(lines[(turn + 1)...].count { $0.contains("reads flag") } == 2)
        #expect(lines.count < 60)
    }

    @Test("Words are wrapped at blanks, and cut where there are none", arguments: [
        ("one two three", 8, ["one two", "  three"]), ("abcdefghij", 4, ["abcd", " efg", " hij"]),
        ("short", 8, ["short"]),
    ])
    func wrapping(_ text: String, _ width: Int, _ lines: [String]) {
        #expect(ColumnText.wrapped(text, width) == lines)
    }
}
