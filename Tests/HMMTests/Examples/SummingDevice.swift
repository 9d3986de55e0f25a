import HMM
import Synchronization

// The example of the README: it uses only what is public.

/// A device that adds up words of a process. It keeps what it may reach in a mirror.
final class SummingDevice: IntervalNotifierClient, @unchecked Sendable {
    private let space: any DeviceAddressSpace
    private let mirror = RadixMirror()
    /// The driver lock: guards what is in `mirror`, and decides `mustRetry`.
    private let lock = FairMutex(.driver)
    private var interval: IntervalNotifier!

    init(_ space: any DeviceAddressSpace, watching pages: PageRange) throws(HMMError) {
        self.space = space
        interval = try space.notifiers.insert(self, over: pages)
    }

    func detach() { interval.remove() }

    /// The way in of every change of the process's page tables: whoever changes them waits until this returns.
    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if range.isBlockable { lock.lock() } else if !lock.tryLock() { return false }
        defer { lock.unlock() }
        notifier.setSequence(sequence)
        guard let pages = range.pages.intersection(notifier.pages) else { return true }
        let mask = MirrorKeepMask.forEvent(range, owner: nil)
        return mirror.invalidate(pages, keeping: mask, isBlockable: range.isBlockable)
    }

    /// The sum of the first words of the pages.
    func sum(_ pages: PageRange) throws(HMMError) -> UInt64 {
        while true {
            var sum: UInt64 = 0
            lock.lock()
            let missing = pages.first { page in
                guard let entry = mirror.lookup(page) else { return true }
                sum &+= space.frameWindow.words(of: entry.frame)[0].load(ordering: .relaxed)
                return false
            }
            lock.unlock()
            guard let missing else { return sum }
            try fault(missing..<pages.upperBound)
        }
    }

    /// A device fault: what is not there is faulted in as a CPU would, then mirrored, unless it changed meanwhile.
    private func fault(_ pages: PageRange) throws(HMMError) {
        var range = HMMRange(interval, pages)
        range.defaultRequest = .fault
        _ = try space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
            lock.lock()
            defer { lock.unlock() }
            guard !range.mustRetry() else { return false }
            var runs: [MirrorRun] = []
            range.forEachValidRun { run in
                let (pages, frame) = (run.pages, run.firstFrame)
                runs.append(MirrorRun(pages: pages, firstFrame: frame, isWritable: run.isWritable, order: run.order))
            }
            try mirror.commit(runs)
            return true
        }
    }
}
