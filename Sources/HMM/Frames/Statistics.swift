import Synchronization

/// What a machine did so far. Counters only grow; reading them while threads run gives a value of some moment.
public final class Statistics: @unchecked Sendable {
    // `cells` is immutable, and what it points to is atomic.

    /// One counter, kept once for each stripe of threads: the counters of all stripes would otherwise be the words
    /// that processors fight for most.
    public struct Counter: ~Copyable, @unchecked Sendable {
        // Atomic words; the counters of one stripe lie beside each other, those of the next one on other cache lines.
        private let cells: UnsafeMutablePointer<Atomic<UInt64>>

        fileprivate init(_ cells: UnsafeMutablePointer<Atomic<UInt64>>) { self.cells = cells }

        @inline(__always) package func add(_ n: UInt64 = 1) {
            cells[ThreadStripe.current * Statistics.counterLimit].add(n, ordering: .relaxed)
        }
        public var count: UInt64 {
            var sum: UInt64 = 0
            for stripe in 0..<ThreadStripe.count {
                sum &+= cells[stripe * Statistics.counterLimit].load(ordering: .relaxed)
            }
            return sum
        }
    }

    /// Room for counters in a stripe: two cache lines.
    fileprivate static let counterLimit = 16
    private let cells: UnsafeMutablePointer<Atomic<UInt64>>

    /// Faults taken by CPUs.
    public let cpuFaults: Counter
    /// Rounds of device faults that succeeded.
    public let deviceFaults: Counter
    /// Rounds of device faults that had to be done again.
    public let retries: Counter
    /// Invalidations begun.
    public let invalidations: Counter
    /// Entries written to mirrors.
    public let mirrorEntries: Counter
    /// Pages copied because of a write to a shared page.
    public let copiesOnWrite: Counter
    /// Pages written to swap, and read back.
    public let swapOuts: Counter
    public let swapIns: Counter
    /// Pages moved to device memory, and back to system memory.
    public let pagesToDevice: Counter
    public let pagesToSystem: Counter
    /// Bytes copied by migrations.
    public let bytesCopied: Counter
    /// Times that a CPU's cached translations were dropped for another CPU.
    public let tlbFlushes: Counter

    package init() {
        let words = ThreadStripe.count * Self.counterLimit
        let memory = UnsafeMutableRawPointer.allocate(
            byteCount: words * MemoryLayout<UInt64>.stride, alignment: 128)
        memory.initializeMemory(as: UInt64.self, repeating: 0, count: words)
        cells = memory.assumingMemoryBound(to: Atomic<UInt64>.self)
        cpuFaults = Counter(cells + 0)
        deviceFaults = Counter(cells + 1)
        retries = Counter(cells + 2)
        invalidations = Counter(cells + 3)
        mirrorEntries = Counter(cells + 4)
        copiesOnWrite = Counter(cells + 5)
        swapOuts = Counter(cells + 6)
        swapIns = Counter(cells + 7)
        pagesToDevice = Counter(cells + 8)
        pagesToSystem = Counter(cells + 9)
        bytesCopied = Counter(cells + 10)
        tlbFlushes = Counter(cells + 11)
    }

    /// A device fault that took so many rounds.
    package func noteDeviceFault(rounds: Int, entries: Int) {
        deviceFaults.add()
        retries.add(UInt64(rounds - 1))
        mirrorEntries.add(UInt64(entries))
    }

    /// All counters start again. Nobody else counts.
    func recycle() {
        for i in 0..<ThreadStripe.count * Self.counterLimit { cells[i].store(0, ordering: .relaxed) }
    }

    deinit { cells.deallocate() }
}
