import HMM
import Synchronization

/// A mutex of a driver that has no place in the core's lock order: a mutex that is taken around whole operations, the
/// reservation of a buffer object. The order of such locks is the driver's business, so nobody watches it, and a
/// mistake shows as what it is: a deadlock.
final class SleepLock: Sendable {
    private let isTaken = Atomic<Bool>(false)

    private var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    func lock() {
        schedulingPoint(.acquire, on: address)
        while isTaken.exchange(true, ordering: .acquiring) {
            WaitQueue.wait(on: address) { isTaken.load(ordering: .acquiring) }
        }
    }

    func tryLock() -> Bool {
        schedulingPoint(.tryAcquire, on: address)
        return !isTaken.exchange(true, ordering: .acquiring)
    }

    func unlock() {
        schedulingPoint(.release, on: address)
        isTaken.store(false, ordering: .releasing)
        WaitQueue.wakeAll(address)
    }

    func withLock<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        lock()
        defer { unlock() }
        return try body()
    }
}

/// Something that happens once: a fence of a device, a completion.
final class Fence: Sendable {
    private let isSignalled = Atomic<Bool>(false)

    private var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    func signal() {
        schedulingPoint(.store, on: address)
        isSignalled.store(true, ordering: .releasing)
        WaitQueue.wakeAll(address)
    }

    func wait() { WaitQueue.wait(on: address) { !isSignalled.load(ordering: .acquiring) } }

    /// A look, which is a step.
    var hasHappened: Bool {
        schedulingPoint(.load, on: address)
        return isSignalled.load(ordering: .acquiring)
    }
}

/// A word that threads share without a lock; each access is a step.
final class DriverWord: Sendable {
    private let value: Atomic<Int>

    init(_ value: Int = 0) { self.value = Atomic(value) }

    private var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    func load() -> Int {
        schedulingPoint(.load, on: address)
        return value.load(ordering: .acquiring)
    }

    func store(_ new: Int) {
        schedulingPoint(.store, on: address)
        value.store(new, ordering: .releasing)
    }

    /// Answers the new value.
    func add(_ amount: Int) -> Int {
        schedulingPoint(.update, on: address)
        return value.wrappingAdd(amount, ordering: .acquiringAndReleasing).newValue
    }

    /// Without a step: for who holds the lock that guards the word, or runs alone.
    var now: Int {
        get { value.load(ordering: .acquiring) }
        set { value.store(newValue, ordering: .releasing) }
    }
}
