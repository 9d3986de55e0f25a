import CLive
import HMM
import Synchronization

// What CPUs took home by themselves is told to mirrors here, in normal context, and then its slots are free again.
//
// Lock order: `delivery` > mmap > driver locks (in callbacks).

extension LiveSpace {
    /// More than a huge page has, so that one that came home whole is given back whole.
    private static let batch = 1024

    /// Tells mirrors what CPUs have changed by themselves since the last call, and returns when that is done, by whom
    /// ever. A driver calls it at the start of a request, with no lock held; a thread of the live space does it in the
    /// background, so that slots come free without requests.
    public func deliverInvalidations() {
        delivery.lock()
        defer { delivery.unlock() }
        deliverLocked()
    }

    /// The caller holds `delivery`.
    func deliverLocked() {
        dropStale()
        withUnsafeTemporaryAllocation(of: clive_return.self, capacity: Self.batch) { returns in
            while true {
                let count = clive_drain(returns.baseAddress!, returns.count)
                guard count > 0 else { return }
                deliver(UnsafeMutableBufferPointer(rebasing: returns[0..<count]))
            }
        }
    }

    /// For writing: a driver that maps what it has just moved does so under the mmap lock, and hears of returns after.
    private func deliver(_ returns: UnsafeMutableBufferPointer<clive_return>) {
        mmapLock.lockWrite()
        defer { mmapLock.unlockWrite() }
        var first = 0
        while first < returns.count {
            var end = first + 1
            while end < returns.count, isNeighbour(returns[end], of: returns[end - 1]) { end += 1 }
            deliver(run: returns[first..<end])
            first = end
        }
    }

    private func isNeighbour(_ next: clive_return, of last: clive_return) -> Bool {
        next.page == last.page + 1 && kind(next) == kind(last)
            && machine.frames.deviceMemory(of: FrameNumber(next.frame))
                === machine.frames.deviceMemory(of: FrameNumber(last.frame))
    }

    private func kind(_ entry: clive_return) -> InvalidationEvent {
        if entry.bits & UInt32(CLIVE_COW) != 0 { return .clear }
        return entry.bits & UInt32(CLIVE_EXCLUSIVE) != 0 ? .exclusive : .migrate
    }

    /// Neighbouring pages of one kind.
    private func deliver(run: Slice<UnsafeMutableBufferPointer<clive_return>>) {
        let first = PageNumber(run.first!.page)
        let pages = first..<first.advanced(by: run.count)
        let event = kind(run.first!)
        var owner: NotifierOwner?
        if event == .migrate, let handler = machine.privateFaultHandler(for: FrameNumber(run.first!.frame)) {
            for page in pages { owner = handler.pageCameHome(page, in: notifiers) }
        }
        Invalidation.begin(notifiers, InvalidationRange(event, pages, owner: owner)).end()
        if event == .clear {
            // What was written after a fork is a page of the process's own, which the kernel took from the system.
            _ = bringHomeFromNode(pages.filter { dropCoherent($0) }.map(\.raw))
            return
        }
        let settled = withUnsafeTemporaryAllocation(of: UInt32.self, capacity: run.count) { slots in
            for (index, entry) in run.enumerated() {
                slots[index] = clive_settle(entry.page, entry.frame) ? entry.frame : 0
            }
            return giveBack(slots: slots)
        }
        machine.statistics.pagesToSystem.add(UInt64(settled))
    }

    /// Of the thread below, in nanoseconds.
    private static var longestPause: UInt64 { 500_000_000 }

    /// Delivers in the background, for as long as the process runs, or until a fork made this a child's copy.
    func startDeliveryThread() {
        let generation = forks.load(ordering: .acquiring)
        _ = SyncThread.spawn(name: "hmm-returns") { [self] in
            clive_block_signals()
            var looked = ContinuousClock.now
            while forks.load(ordering: .acquiring) == generation {
                clive_wait_returns(Self.longestPause)
                let now = ContinuousClock.now
                if now - looked >= .nanoseconds(Self.longestPause / 2) {
                    // A program that handles SIGBUS itself may have begun to since.
                    _ = clive_keep_handler()
                    looked = now
                }
                deliverInvalidations()
            }
        }
    }
}

/// The lock of the deliverer. It stands before all locks of the core, so it is none of theirs, and is held across a
/// fork.
final class DeliveryLock: Sendable {
    private let isTaken = Atomic<Bool>(false)

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    func lock() {
        while !isTaken.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged {
            WaitQueue.wait(on: key) { isTaken.load(ordering: .relaxed) }
        }
    }

    func unlock() {
        isTaken.store(false, ordering: .releasing)
        _ = WaitQueue.wakeOne(key)
    }
}
