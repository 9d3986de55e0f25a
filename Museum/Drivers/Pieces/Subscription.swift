import HMM
import HMMExplorer

/// The least that a driver needs to hear of invalidations: its lock, its interval, and what it clears under the lock.
final class Subscription: IntervalNotifierClient, ObjectNaming, @unchecked Sendable {
    /// The driver lock: guards what the driver mirrors, and decides `readRetry`.
    let lock = FairMutex(.driver)
    private let clear: @Sendable (InvalidationRange) -> Void
    /// Set once by `init`, before anybody else knows the subscription.
    private(set) var interval: IntervalNotifier!

    init(
        to space: AddressSpace, over pages: PageRange,
        _ clear: @escaping @Sendable (InvalidationRange) -> Void = { _ in }
    ) throws {
        self.clear = clear
        interval = try space.notifiers.insert(self, over: pages)
    }

    func remove() { interval.remove() }

    func objectName(at address: UInt) -> String? { address == lock.address ? "driver lock" : nil }

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        guard range.isBlockable else { return false }
        lock.lock()
        defer { lock.unlock() }
        notifier.setSequence(sequence)
        clear(range)
        return true
    }
}

/// A frame as a driver remembers it: with the life that it was found in.
struct FoundFrame {
    let frame: FrameNumber
    private let generation: UInt32

    init(_ frame: FrameNumber, on machine: Machine) {
        self.frame = frame
        generation = machine.frames.generation(of: frame)
    }

    /// Uses the frame's `struct page`, which must still be that of the page that was found.
    func touch(_ what: String, in scene: Scene) {
        let frames = scene.machine.frames
        let isFree = frames.refCount(frames.head(of: frame)) == 0
        if isFree || frames.generation(of: frame) != generation {
            scene.fail("\(what): \(frame) was freed before", kind: .useAfterFree)
        }
    }
}
