import Testing

@testable import HMM

/// Aim: the sequence's decisions are right in every small history.
/// Method: enumerate all histories of starts, ends, inserts, removals and reads up to a length, and hold each against a
/// model that keeps whole sets instead of numbers.
@Suite("The notifier sequence")
struct NotifierSequenceTests {
    /// What a history is made of. There is one interval that invalidations may touch.
    enum Step: CaseIterable {
        case startTouching, startElsewhere, end, insert, remove, readBegin
    }

    /// A world with one interval, in which nothing is a number of the kind under test.
    struct World {
        var sequence = NotifierSequence()
        enum Interval: Hashable { case absent, insertDeferred, inTree, removalDeferred }
        var interval = Interval.absent
        var intervalNumber: UInt64 = 0
        /// Invalidations that run, by whether they called the interval.
        var running: [Bool] = []
        /// Some invalidation that is running, or ran at the same time as one that is, could not see the interval.
        var isReadUnsafe = false
        var history: [Step] = []

        mutating func apply(_ step: Step) -> Bool {
            history.append(step)
            let before = sequence
            switch step {
            case .startTouching:
                // Only a tree member can be touched.
                guard interval == .inTree || interval == .removalDeferred else { return false }
                let number = sequence.start(touchesInterval: true)
                #expect(number & 1 == 1, "\(history)")
                intervalNumber = number
                running.append(true)
            case .startElsewhere:
                _ = sequence.start(touchesInterval: false)
                running.append(false)
            case .end:
                guard !running.isEmpty else { return false }
                running.removeFirst()
                applyEnd(before)
            case .insert:
                guard interval == .absent else { return false }
                let insertion = sequence.insert()
                #expect(insertion.intervalNumber & 1 == 1, "INV-NT-3 \(history)")
                #expect(insertion.isDeferred == before.isFrozen, "INV-NT-2 \(history)")
                intervalNumber = insertion.intervalNumber
                interval = insertion.isDeferred ? .insertDeferred : .inTree
                isReadUnsafe = !running.isEmpty
            case .remove: return applyRemoval(before)
            case .readBegin:
                guard interval != .absent else { return false }
                let mustWait = sequence.isInvalidating(intervalNumber: intervalNumber)
                // Whoever is running and has touched the interval, or could not see it, must be waited for.
                let expected = isReadUnsafe || running.contains(true)
                if expected { #expect(mustWait, "INV-NT-4 \(history)") }
                if running.isEmpty { #expect(!mustWait, "a reader waits for nobody \(history)") }
            }
            check(before)
            return true
        }

        private mutating func applyEnd(_ before: NotifierSequence) {
            let action = sequence.end()
            let isOver = running.isEmpty && before.isFrozen
            #expect(action == (isOver ? .thaw : .nothing), "INV-NT-1 \(history)")
            if running.isEmpty { isReadUnsafe = false }
            guard action == .thaw else { return }
            if interval == .insertDeferred { interval = .inTree }
            if interval == .removalDeferred { interval = .absent }
        }

        private mutating func applyRemoval(_ before: NotifierSequence) -> Bool {
            guard interval == .inTree || interval == .insertDeferred else { return false }
            switch sequence.remove(isInsertDeferred: interval == .insertDeferred) {
            case .fromTree:
                #expect(!before.isFrozen && interval == .inTree, "INV-NT-2 \(history)")
                interval = .absent
            case .fromDeferredInserts:
                #expect(before.isFrozen && interval == .insertDeferred, "INV-NT-2 \(history)")
                interval = .absent
            case .deferred(while: let number):
                #expect(before.isFrozen && interval == .inTree && number == before.number, "INV-NT-2 \(history)")
                interval = .removalDeferred
            }
            return true
        }

        private func check(_ before: NotifierSequence) {
            #expect(sequence.number >= before.number, "INV-NT-1 \(history)")
            #expect(!sequence.isFrozen || sequence.running > 0, "INV-NT-1 \(history)")
            #expect(sequence.running == running.count, "\(history)")
            if running.contains(true) { #expect(sequence.isFrozen, "\(history)") }
            if interval == .absent || interval == .inTree { return }
            #expect(sequence.isFrozen, "something is put off and nothing will apply it \(history)")
        }
    }

    @Test("every history of up to seven steps keeps INV-NT-1 to INV-NT-4")
    func everyHistory() {
        var count = 0
        func extend(_ world: World, _ depth: Int) {
            guard depth > 0 else { return }
            for step in Step.allCases {
                var next = world
                guard next.apply(step) else { continue }
                count += 1
                extend(next, depth - 1)
            }
        }
        extend(World(), 7)
        #expect(count > 10_000)
    }

    @Test("an interval that is inserted while nobody runs never waits for what comes later and misses it")
    func insertionWhileIdle() {
        var sequence = NotifierSequence()
        let insertion = sequence.insert()
        #expect(insertion == .init(isDeferred: false, intervalNumber: 1))
        _ = sequence.start(touchesInterval: true)
        #expect(!sequence.isInvalidating(intervalNumber: insertion.intervalNumber))
        #expect(sequence.end() == .thaw)
        #expect(sequence.number == 4)
    }

    @Test("overlapping invalidations share one odd phase, and the last end finishes it")
    func sharedPhase() {
        var sequence = NotifierSequence()
        #expect(sequence.start(touchesInterval: false) == 2)
        #expect(sequence.start(touchesInterval: true) == 3)
        #expect(sequence.end() == .nothing)
        #expect(sequence.start(touchesInterval: true) == 3)
        #expect(sequence.end() == .nothing)
        #expect(sequence.end() == .thaw)
        #expect(sequence.number == 4)
    }
}
