import Synchronization

@testable import HMM

/// A range of pages by small numbers.
func span(_ first: UInt64, _ end: UInt64) -> PageRange { PageNumber(first)..<PageNumber(end) }

/// A mirror of nothing: remembers what it was told, and keeps one "translation" for each of the first 64 pages.
final class RecordingClient: IntervalNotifierClient, @unchecked Sendable {
    let userLock = FairMutex(.driver)
    /// Guarded by `userLock`.
    var heard: [InvalidationRange] = []
    /// Guarded by `userLock`.
    var sequences: [UInt64] = []
    /// Guarded by `userLock`: bit i is a translation of page i.
    var translations: UInt64 = 0
    let callbacksRunning = Atomic<Int>(0)
    /// Stands for another thread that holds `userLock`.
    let isBusy = Atomic<Bool>(false)

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        callbacksRunning.add(1, ordering: .relaxed)
        defer { callbacksRunning.subtract(1, ordering: .relaxed) }
        if range.isBlockable {
            userLock.lock()
        } else {
            guard !isBusy.load(ordering: .acquiring), userLock.tryLock() else { return false }
        }
        notifier.setSequence(sequence)
        heard.append(range)
        sequences.append(sequence)
        for page in 0..<64 as Range<UInt64> where range.pages.contains(PageNumber(page)) {
            translations &= ~(1 << page)
        }
        userLock.unlock()
        return true
    }

    var heardEvents: [InvalidationEvent] { userLock.withLock { heard.map(\.event) } }
}

/// A list notifier that remembers what it was told.
final class RecordingListClient: ListNotifierClient, @unchecked Sendable {
    let lock = SpinLock(.leaf)
    /// Guarded by `lock`.
    var log: [String] = []
    let refuses: Bool
    let young: Bool

    init(refuses: Bool = false, young: Bool = false) {
        self.refuses = refuses
        self.young = young
    }

    func note(_ text: String) {
        lock.lock()
        log.append(text)
        lock.unlock()
    }

    func invalidationStarts(_ range: InvalidationRange) -> Bool {
        note(refuses && !range.isBlockable ? "refuse" : "start")
        return !refuses || range.isBlockable
    }
    func invalidationEnds(_ range: InvalidationRange) { note("end") }
    func released() { note("released") }
    func clearAndFlushYoung(_ pages: PageRange) -> Bool {
        note("flush young")
        return young
    }
    func clearYoung(_ pages: PageRange) -> Bool {
        note("clear young")
        return young
    }
    func isYoung(_ page: PageNumber) -> Bool { young }

    var notes: [String] {
        lock.lock()
        defer { lock.unlock() }
        return log
    }
}
