import Synchronization

/// What the fault queue needs of its device, for one mirror.
public protocol FaultQueueDelegate: AnyObject, Sendable {
    /// The mapping that contains the page, now.
    func mapping(containing page: PageNumber) -> DeviceMapping?
    /// Whether the mirror has the page with the right for this access.
    func permits(_ page: PageNumber, _ access: AccessKind) -> Bool
    /// One device fault over the block: pages with a request are made available, the others are taken along only if
    /// the CPU has them mapped. Errors: those of a device fault.
    func fault(_ block: PageRange, _ requests: [(page: PageNumber, access: AccessKind)]) throws(HMMError)
    /// The client's access may be tried again.
    func resume(_ request: DeviceFaultRequest)
    /// The client's access can never succeed.
    func cancel(_ request: DeviceFaultRequest, _ error: HMMError)
}

/// The queue of faults of one mirror: takes them in bulk, serves neighbours together, completes each client once.
///
/// Nothing is dropped when the queue is full: the hardware replays. The oldest requests are served first, so a fault is
/// served after at most (queue length / batch) batches.
///
/// Locks: `lock` (.leaf), never held while serving. Any thread may enqueue and drain.
///
/// Invariant: INV-FQ-1: each request that was accepted is completed exactly once, resumed or cancelled.
/// Invariant: INV-FQ-2: a page that nobody requested stays as it is for the CPU.
public final class FaultQueue: @unchecked Sendable {
    private unowned let delegate: any FaultQueueDelegate
    private let coalescing: FaultCoalescing
    private let capacity: Int
    private let lock = SpinLock(.leaf)
    /// Guarded by `lock`, oldest first.
    private var pending: ContiguousArray<DeviceFaultRequest> = []
    /// Guarded by `lock`.
    private var lastTicket: UInt64 = 0

    public init(_ delegate: any FaultQueueDelegate, _ coalescing: FaultCoalescing = .init(), capacity: Int = 4096) {
        self.delegate = delegate
        self.coalescing = coalescing
        self.capacity = capacity
    }

    /// Accepts a fault; false when the queue is full, and the hardware must try again later.
    public func enqueue(_ request: DeviceFaultRequest) -> Bool {
        lock.withLock {
            guard pending.count < capacity else { return false }
            lastTicket += 1
            var accepted = request
            accepted.ticket = lastTicket
            pending.append(accepted)
            return true
        }
    }

    public var count: Int { lock.withLock { pending.count } }

    /// Serves one batch. Answers how many requests were completed; those that need another look stay queued, in front.
    public func drain() -> Int {
        let taken = lock.withLock {
            let count = min(pending.count, coalescing.batchLimit)
            let taken = Array(pending.prefix(count))
            pending.removeFirst(count)
            return taken
        }
        var batch = FaultBatch(taken)
        var unserved: [DeviceFaultRequest] = []
        while !batch.isEmpty { unserved += serveFirst(of: &batch) }
        if !unserved.isEmpty {
            // In the order of their age, which merging has lost.
            unserved.sort { $0.ticket < $1.ticket }
            lock.withLock { pending.insert(contentsOf: unserved, at: 0) }
        }
        return taken.count - unserved.count
    }

    /// Serves the block around the first page of the batch. Returns the requests that must be tried again.
    private func serveFirst(of batch: inout FaultBatch) -> [DeviceFaultRequest] {
        let first = batch.entries[0]
        if delegate.permits(first.page, first.access) {
            // Spurious: somebody else's fault has brought the page.
            batch.remove(at: 0).requests.forEach(delegate.resume)
            return []
        }
        guard let mapping = delegate.mapping(containing: first.page) else {
            return cancel(batch.remove(at: 0), HMMError(.badAddress, "nothing is mapped"))
        }
        let block = batch.firstBlock(in: mapping.pages, coalescing) { delegate.permits($0, .read) }
        let entries = batch.remove(in: block)
        do throws(HMMError) {
            try delegate.fault(block, entries.map { ($0.page, $0.access) })
        } catch {
            guard entries.count > 1 || entries[0].requests.count > 1 else { return cancel(entries[0], error) }
            // Somebody in the block is at fault, and only that one may suffer for it.
            return entries.flatMap(serveAlone)
        }
        return entries.flatMap(complete)
    }

    /// Serves the requests for one page each by itself.
    private func serveAlone(_ entry: FaultBatch.Entry) -> [DeviceFaultRequest] {
        entry.requests.flatMap { request in
            let single = FaultBatch.Entry(page: entry.page, access: request.access, requests: [request])
            do throws(HMMError) {
                let page = entry.page..<entry.page.advanced(by: 1)
                try delegate.fault(page, [(entry.page, request.access)])
            } catch {
                return cancel(single, error)
            }
            return complete(single)
        }
    }

    /// Resumes who has what it wants. Returns the others.
    private func complete(_ entry: FaultBatch.Entry) -> [DeviceFaultRequest] {
        entry.requests.filter { request in
            guard delegate.permits(request.page, request.access) else { return true }
            delegate.resume(request)
            return false
        }
    }

    private func cancel(_ entry: FaultBatch.Entry, _ error: HMMError) -> [DeviceFaultRequest] {
        entry.requests.forEach { delegate.cancel($0, error) }
        return []
    }
}
