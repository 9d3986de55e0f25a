import Synchronization

/// What can run out. An injector fails allocations of all kinds alike; the kinds tell a test what it hit.
public enum AllocationKind: UInt8, Sendable, CaseIterable {
    case frame, hugeFolio, pageTable, swapSlot, object, directory, deviceFrame
}

/// Makes the n-th allocation of a machine fail. Tests run an operation with n = 1, 2, … until it succeeds, and check
/// after each failure that nothing was lost.
///
/// Off, it costs one predictable branch an allocation (not a page: batches count once).
public final class FaultInjector: Sendable {
    private let armed = Atomic<Bool>(false)
    private let remaining = Atomic<Int>(0)
    private let failed = Atomic<Int>(0)

    package init() {}

    /// The `n`-th allocation from now (1 is the next one) fails, once, and with `repeating` all that follow it too.
    public func failAllocation(_ n: Int, repeating: Bool = false) {
        precondition(n >= 1, "allocations are counted from 1")
        remaining.store(n, ordering: .relaxed)
        failed.store(0, ordering: .relaxed)
        isRepeating.store(repeating, ordering: .relaxed)
        armed.store(true, ordering: .releasing)
    }

    private let isRepeating = Atomic<Bool>(false)

    /// Turns the injector off. Answers how many allocations it failed since it was armed.
    public func disarm() -> Int {
        armed.store(false, ordering: .releasing)
        return failed.load(ordering: .relaxed)
    }

    /// Off, as it was at the beginning.
    func recycle() {
        _ = disarm()
        failed.store(0, ordering: .relaxed)
    }

    /// Allocations that failed since the injector was armed.
    package var failedCount: Int { failed.load(ordering: .relaxed) }

    /// Whether this allocation must fail.
    @inline(__always)
    package func shouldFail(_ kind: AllocationKind) -> Bool {
        guard armed.load(ordering: .relaxed) else { return false }
        return countDown()
    }

    /// For allocations that exist only as Swift objects and cannot run out by themselves.
    package func check(_ kind: AllocationKind) throws(HMMError) {
        if shouldFail(kind) { throw HMMError(.outOfMemory, "the allocation was made to fail") }
    }

    private func countDown() -> Bool {
        let left = remaining.subtract(1, ordering: .relaxed).newValue
        guard left == 0 || (left < 0 && isRepeating.load(ordering: .relaxed)) else { return false }
        failed.add(1, ordering: .relaxed)
        return true
    }
}
