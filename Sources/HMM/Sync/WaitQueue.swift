import CLinux

/// Address-keyed parking: any word of memory can be slept on, and no lock carries a queue of its own.
///
/// 256 buckets hold the sleeping threads of all keys in the order of their arrival. Each thread sleeps on its own futex
/// word, so a wake reaches exactly the threads it names. Under a scheduler the same code runs on the scheduler's own
/// chain, and sleeping and waking are its `block` and `unblock`.
///
/// A waker makes the condition false first and wakes afterwards; the condition is evaluated under the bucket's lock, so
/// no wake is lost. A condition reads atomics only: it takes no lock, does not wait, and makes no scheduling point.
public enum WaitQueue {
    /// Sleeps while `condition` is true. The condition is looked at again after each wake; a thread that must sleep
    /// again keeps its place in the queue.
    public static func wait(on key: UInt, while condition: () -> Bool) {
        schedulingPoint(.wait, on: key)
        var ticket: UInt64 = 0
        while park(on: key, tag: 0, ticket: &ticket, while: condition) {}
    }

    /// Wakes every thread that sleeps on `key`.
    ///
    /// - Parameter change: makes the condition false, if it was not made so before. Two such changes commute.
    public static func wakeAll(_ key: UInt, after change: () -> Void = {}) {
        schedulingPoint(.wake, on: key)
        change()
        if isEmpty(key) { return }
        _ = unpark(key, admit: { _ in true }, commit: { _ in })
    }

    /// Wakes the thread that has slept longest on `key`; false if nobody sleeps.
    public static func wakeOne(_ key: UInt) -> Bool {
        // Not as `wakeAll`: of two wakers, each reaches somebody else.
        schedulingPoint(.update, on: key)
        if isEmpty(key) { return false }
        var isFirst = true
        return unpark(
            key,
            admit: { _ in
                defer { isFirst = false }
                return isFirst
            }, commit: { _ in }) != 0
    }

    /// Nobody sleeps any more: for the child of a fork, in which there are no other threads.
    package static func forgetSleepers() { hmm_buckets_forget() }

    /// The number of threads that sleep on `key` at this moment.
    package static func sleeperCount(_ key: UInt) -> Int {
        let (bucket, isShared) = bucket(of: key)
        if isShared { hmm_bucket_lock(bucket) }
        defer { if isShared { hmm_bucket_unlock(bucket) } }
        var count = 0
        var node = hmm_bucket_first(bucket)
        while let waiter = node {
            if waiter.pointee.key == key { count += 1 }
            node = waiter.pointee.next
        }
        return count
    }

    /// One sleep: returns false at once if `condition` is false, true after a wake.
    ///
    /// `tag` is what `admit` of the waker will see. `ticket` is 0 for a thread that joins at the end of the queue and
    /// its former place for one that was woken in vain.
    package static func park(on key: UInt, tag: UInt32, ticket: inout UInt64, while condition: () -> Bool) -> Bool {
        let thread = hmm_thread_current()
        let waiter = hmm_thread_waiter(thread)
        let (bucket, isShared) = bucket(of: key)
        if isShared { hmm_bucket_lock(bucket) }
        hmm_bucket_enter(bucket)
        guard condition() else {
            hmm_bucket_leave(bucket)
            if isShared { hmm_bucket_unlock(bucket) }
            return false
        }
        if ticket == 0 { ticket = hmm_bucket_next_ticket(bucket) }
        hmm_bucket_insert(bucket, waiter, key, tag, ticket)
        if isShared {
            hmm_bucket_unlock(bucket)
            hmm_waiter_sleep(waiter)
        } else {
            while !hmm_waiter_is_woken(waiter) { _ = Seam.withScheduler { $0.block(on: key) } }
        }
        return true
    }

    /// Takes waiters of `key` off the queue, in its order, for as long as `admit` says yes to the tag of the next;
    /// then calls `commit`, told whether waiters are left; then wakes those taken. `admit` and `commit` run under the
    /// bucket's lock, so that a lock word changes in one step with its queue. Returns how many were woken.
    package static func unpark(
        _ key: UInt, admit: (UInt32) -> Bool, commit: (_ areMoreLeft: Bool) -> Void
    ) -> Int {
        let (bucket, isShared) = bucket(of: key)
        if isShared { hmm_bucket_lock(bucket) }
        var woken: UnsafeMutablePointer<hmm_waiter>?
        var lastWoken: UnsafeMutablePointer<hmm_waiter>?
        var previous: UnsafeMutablePointer<hmm_waiter>?
        var next = hmm_bucket_first(bucket)
        var areMoreLeft = false
        var count = 0
        while let waiter = next {
            next = waiter.pointee.next
            guard waiter.pointee.key == key else {
                previous = waiter
                continue
            }
            guard admit(waiter.pointee.tag) else {
                areMoreLeft = true
                break
            }
            hmm_bucket_take(bucket, previous, waiter, lastWoken)
            if lastWoken == nil { woken = waiter }
            lastWoken = waiter
            count += 1
        }
        commit(areMoreLeft)
        if isShared { hmm_bucket_unlock(bucket) }
        wake(woken, isShared: isShared)
        return count
    }

    /// Wakes a chain of waiters that are in no queue any more.
    private static func wake(_ chain: UnsafeMutablePointer<hmm_waiter>?, isShared: Bool) {
        var next = chain
        while let waiter = next {
            // The node is its thread's again as soon as it is woken.
            next = waiter.pointee.next
            if isShared {
                hmm_waiter_wake(waiter)
            } else {
                hmm_waiter_mark_woken(waiter)
                let index = waiter.pointee.thread
                _ = Seam.withScheduler { $0.unblock(index) }
            }
        }
    }

    /// Whether nobody sleeps in the bucket of `key`. The caller has made its waiters' condition false before.
    @inline(__always)
    private static func isEmpty(_ key: UInt) -> Bool { hmm_bucket_is_empty(bucket(of: key).0) }

    /// The chain of `key`, and whether threads of the system share it, so that its lock is needed.
    @inline(__always)
    private static func bucket(of key: UInt) -> (UnsafeMutablePointer<hmm_bucket>, isShared: Bool) {
        if let own = Seam.withScheduler({ $0.parked }) { return (own, false) }
        return (hmm_bucket_of(key), true)
    }
}
