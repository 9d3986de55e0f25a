import HMM
import HMMExplorer
import Synchronization

/// What userfaultfd does for a range of an address space: a fault on a missing page is queued and sleeps until the
/// handler has filled the page; a removal is queued too, and goes on when the handler has read of it; a write to a page
/// that is protected is queued, and sleeps until the handler has taken the protection away.
///
/// From the call of a removal until the removing thread goes on after its event was read, the mappings are changing,
/// and a copy is refused with EAGAIN.
///
/// Kernel: fs/userfaultfd.c handle_userfault, userfaultfd_remove, userfaultfd_ctx_read; mm/userfaultfd.c mfill_atomic,
/// mwriteprotect_range (6.12).
final class Userfault: @unchecked Sendable {
    enum Event: Equatable {
        case fault(PageNumber)
        case write(PageNumber)
        case removal(PageNumber)
        /// Nobody touches the memory any more: what a handler polls beside its userfaultfd.
        case end
    }

    enum CopyOutcome { case copied, exists, tryAgain }

    struct CopyMode: OptionSet {
        let rawValue: UInt8
        /// Who waits for the page goes on sleeping.
        static let dontWake = CopyMode(rawValue: 1)
        /// The page is protected as soon as it is there.
        static let protected = CopyMode(rawValue: 2)
    }

    let space: AddressSpace
    /// Outside of all locks of the core: makes the look at a page and its filling one step.
    private let lock = SleepLock()
    /// Guarded by `lock`.
    private var queue: [Event] = []
    /// Pages that are there and may not be written. Guarded by `lock`.
    private var protected: [PageNumber] = []
    /// Written under `lock`. Events made and read, so that who waits for either can sleep.
    private let (made, read) = (DriverWord(), DriverWord())
    /// Removals that are under way. Written under `lock`.
    private let changing = DriverWord()
    /// Moves on when somebody who faulted is to look again. Written under `lock`.
    private let woken = DriverWord()

    init(_ space: AddressSpace) { self.space = space }

    private var key: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
    private var readKey: UInt { key + 1 }
    private var wokenKey: UInt { key + 2 }

    // MARK: The program

    /// A thread of the program reads the first word of a page.
    func load(_ page: PageNumber) throws(HMMError) -> UInt64 {
        try access { () throws(HMMError) -> Access<UInt64> in
            if let word = try present(page) { .done(word) } else { .waits(.fault(page)) }
        }
    }

    /// A thread of the program writes the first word of a page.
    func store(_ word: UInt64, to page: PageNumber) throws(HMMError) {
        try access { () throws(HMMError) -> Access<Void> in
            if try present(page) == nil { return .waits(.fault(page)) }
            if protected.contains(page) { return .waits(.write(page)) }
            return .done(try fill(page, word))
        }
    }

    private enum Access<Result> {
        case done(Result)
        case waits(Event)
    }

    /// Tries the access, with the lock held, until nobody has to be asked.
    private func access<Result>(_ attempt: () throws(HMMError) -> Access<Result>) throws(HMMError) -> Result {
        var queued: Event?
        while true {
            var seen = 0
            let outcome = try lock.withLock { () throws(HMMError) -> Access<Result> in
                seen = woken.now
                let outcome = try attempt()
                if case .waits(let event) = outcome, queued != event {
                    _ = post(event)
                    queued = event
                }
                return outcome
            }
            switch outcome {
            case .done(let result): return result
            case .waits: WaitQueue.wait(on: wokenKey) { woken.now == seen }
            }
        }
    }

    /// The last thread of the program ends.
    func end() { lock.withLock { _ = post(.end) } }

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

    /// UFFDIO_COPY of one page, with the given first word; wakes who waits for it, if not told otherwise.
    func copy(_ word: UInt64, to page: PageNumber, _ mode: CopyMode = []) throws(HMMError) -> CopyOutcome {
        let outcome = try lock.withLock { () throws(HMMError) -> CopyOutcome in
            if changing.now > 0 { return .tryAgain }
            if try present(page) != nil { return .exists }
            try fill(page, word)
            if mode.contains(.protected) { protected.append(page) }
            if !mode.contains(.dontWake) { woken.now += 1 }
            return .copied
        }
        if !mode.contains(.dontWake) { WaitQueue.wakeAll(wokenKey) }
        return outcome
    }

    /// UFFDIO_WRITEPROTECT of one page that is there. Taking the protection away wakes who waits for that.
    func protect(_ page: PageNumber, _ isProtected: Bool) {
        lock.withLock {
            protected.removeAll { $0 == page }
            if isProtected { protected.append(page) } else { woken.now += 1 }
        }
        if !isProtected { WaitQueue.wakeAll(wokenKey) }
    }

    /// UFFDIO_WAKE.
    func wake() {
        lock.withLock { woken.now += 1 }
        WaitQueue.wakeAll(wokenKey)
    }

    /// The first word of the page, if it is there.
    func present(_ page: PageNumber) throws(HMMError) -> UInt64? {
        guard space.mappedFrame(page) != nil else { return nil }
        return try withReference(page, []) { space.machine.frames.words(of: $0)[0].load(ordering: .relaxed) }
    }

    // MARK: With the lock held

    private func fill(_ page: PageNumber, _ word: UInt64) throws(HMMError) {
        try withReference(page, .write) { space.machine.frames.words(of: $0)[0].store(word, ordering: .relaxed) }
    }

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
