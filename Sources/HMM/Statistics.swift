import Synchronization

/// What a machine did so far. Counters only grow; reading them while threads run gives a value of some moment.
public final class Statistics: Sendable {
    /// One counter.
    public struct Counter: ~Copyable, Sendable {
        private let value = Atomic<UInt64>(0)
        @inline(__always) package func add(_ n: UInt64 = 1) { value.add(n, ordering: .relaxed) }
        public var count: UInt64 { value.load(ordering: .relaxed) }
    }

    /// Faults taken by CPUs.
    public let cpuFaults = Counter()
    /// Rounds of device faults that succeeded.
    public let deviceFaults = Counter()
    /// Rounds of device faults that had to be done again.
    public let retries = Counter()
    /// Invalidations begun.
    public let invalidations = Counter()
    /// Entries written to mirrors.
    public let mirrorEntries = Counter()
    /// Pages copied because of a write to a shared page.
    public let copiesOnWrite = Counter()
    /// Pages written to swap, and read back.
    public let swapOuts = Counter()
    public let swapIns = Counter()
    /// Pages moved to device memory, and back to system memory.
    public let pagesToDevice = Counter()
    public let pagesToSystem = Counter()
    /// Bytes copied by migrations.
    public let bytesCopied = Counter()
    /// Times that a CPU's cached translations were dropped for another CPU.
    public let tlbFlushes = Counter()

    package init() {}
}
