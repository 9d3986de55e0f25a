import HMM
import HMMExplorer
import Synchronization

/// What userfaultfd does for a range of an address space: a fault on a missing page is queued and sleeps until the
/// handler has filled the page; a removal is queued too, and goes on when the handler has read of it.
///
/// From the call of a removal until the removing thread goes on after its event was read, the mappings are changing,
/// and a copy is refused with EAGAIN.
///
/// Kernel: fs/userfaultfd.c handle_userfault, userfaultfd_remove, userfaultfd_ctx_read, mfill_atomic (mm/userfaultfd.c,
/// 6.12).
final class Userfault: @unchecked Sendable {
    enum Event: Equatable {
        case fault(PageNumber)
        case removal(PageNumber)
    }

    enum CopyOutcome { case copied, exists, tryAgain }

    let space: AddressSpace
    /// Outside of all locks of the core: makes the look at a page and its filling one step.
    private let lock = SleepLock()
    /// Guarded by `lock`.
    private var queue: [Event] = []
    /// Written under `lock`. Events made and read, so that who waits for either can sleep.
    private let (made, read) = (DriverWord(), DriverWord())
    /// Removals that are under way. Written under `lock`.
    private let changing = DriverWord()
    /// Moves on when a page was filled.
    private let filled = DriverWord()

    init(_ space: AddressSpace) { self.space = space }

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
    private var readKey: UInt { key + 1 }
    private var filledKey: UInt { key + 2 }

    // MARK: The program

    /// A thread of the program reads the first word of a page.
    func load(_ page: PageNumber) throws(HMMError) -> UInt64 {
        var isQueued = false
        while true {
            lock.lock()
            let seen = filled.now
            if let word = try present(page) {
                lock.unlock()
                return word
            }
            if !isQueued { _ = post(.fault(page)) }
            isQueued = true
            lock.unlock()
            WaitQueue.wait(on: filledKey) { filled.now == seen }
        }
    }

    /// A thread of the program gives a page back: MADV_DONTNEED, with UFFD_FEATURE_EVENT_REMOVE.
    func remove(_ page: PageNumber) throws(HMMError) {
        lock.lock()
        changing.now += 1
        let number = post(.removal(page))
        lock.unlock()
        WaitQueue.wait(on: readKey) { read.now < number }
        try lock.withLock { () throws(HMMError) in
            changing.now -= 1
            try space.advise(page..<page.advanced(by: 1), .dontneed)
        }
    }

    // MARK: The handler

    /// Sleeps until there is an event to read.
    func poll() { WaitQueue.wait(on: key) { made.now == read.now } }

    /// The oldest event, if there is one.
    func next() -> Event? {
        let event = lock.withLock { () -> Event? in
            guard !queue.isEmpty else { return nil }
            read.now += 1
            return queue.removeFirst()
        }
        if event != nil { WaitQueue.wakeAll(readKey) }
        return event
    }

    /// UFFDIO_COPY of one page, with the given first word; wakes who waits for it.
    func copy(_ word: UInt64, to page: PageNumber) throws(HMMError) -> CopyOutcome {
        let outcome = try lock.withLock { () throws(HMMError) -> CopyOutcome in
            if changing.now > 0 { return .tryAgain }
            if try present(page) != nil { return .exists }
            try withReference(page, .write) { space.machine.frames.words(of: $0)[0].store(word, ordering: .relaxed) }
            filled.now += 1
            return .copied
        }
        WaitQueue.wakeAll(filledKey)
        return outcome
    }

    /// The first word of the page, if it is there.
    func present(_ page: PageNumber) throws(HMMError) -> UInt64? {
        guard space.mappedFrame(page) != nil else { return nil }
        return try withReference(page, []) { space.machine.frames.words(of: $0)[0].load(ordering: .relaxed) }
    }

    // MARK: With the lock held

    /// Answers how many events there are then.
    private func post(_ event: Event) -> Int {
        queue.append(event)
        made.now += 1
        WaitQueue.wakeAll(key)
        return made.now
    }

    private func withReference<Result>(
        _ page: PageNumber, _ mode: PageReferenceMode, _ body: (FrameNumber) -> Result
    ) throws(HMMError) -> Result {
        space.lockForReading()
        defer { space.unlockForReading() }
        let frame = try space.reference(page, mode)
        defer { space.release(frame, mode) }
        return body(frame)
    }
}
