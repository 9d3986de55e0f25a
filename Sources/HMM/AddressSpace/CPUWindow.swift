import Synchronization

/// What others touch of a CPU: the window in which it makes an access, and requests to forget its translations.
///
/// Whoever changes entries calls `flush`, which makes the CPU forget and waits for the window that may still use the
/// old translation to close. So a page is never read or written through an entry that is gone.
///
/// ```
/// CPU                                   changer of an entry
/// window := odd
/// look at flushRequests, forget if moved
///                                       entry := empty
///                                       flushRequests += 1
/// use the cached translation            wait while window is what it was, and odd
/// window := even                        ─ the old frame may be freed now ─
/// ```
final class CPUWindow: Sendable {
    /// Odd while an access is under way. Pairs with the load in `flush`.
    private let window = Atomic<UInt64>(0)
    /// Moved by whoever wants the cached translations gone. Pairs with the load in `open`.
    private let flushRequests = Atomic<UInt64>(0)

    /// Opens the window. Answers the number of requests to forget.
    @inline(__always)
    func open() -> UInt64 {
        window.add(1, ordering: .sequentiallyConsistent)
        return flushRequests.load(ordering: .sequentiallyConsistent)
    }

    @inline(__always)
    func close() { window.add(1, ordering: .releasing) }

    /// Makes the CPU forget its translations, and waits until no access uses one of them. Any thread.
    func flush() {
        schedulingPoint(.update, on: flushKey)
        flushRequests.add(1, ordering: .sequentiallyConsistent)
        let seen = window.load(ordering: .sequentiallyConsistent)
        guard seen & 1 == 1 else { return }
        // A window is short and never waits; it cannot be open across a scheduling point.
        while window.load(ordering: .acquiring) == seen { SyncThread.yield() }
    }

    /// What flushes and the looks at them are called at scheduling points.
    var flushKey: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
