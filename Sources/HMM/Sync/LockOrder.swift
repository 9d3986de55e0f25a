import CLinux

// The one lock order
// ==================
// A thread that waits for a lock may hold only locks that stand to the left of it on its line or further up and
// outwards in its branch. Siblings (`driver`, `pmd`) are never held together.
//
//     inode                              truncate, punch hole, set size
//       mmap                             the mappings of an address space
//         vma                            read: a fault without the mmap lock; write: marking, with mmap write held
//           invalidate                   a file's page cache against truncation
//             folio                      the lock bit of a folio
//               hugetlbFault             hugetlb's fault mutexes
//                 hugetlbVMA
//                   iMmap                reverse map of a file
//                     hugetlbFolio       the lock bit of a hugetlb folio
//                       anonVMA          reverse map of anonymous memory
//                         subscriptions  interval notifiers of an address space; a short spin
//                           driver       the driver's own lock, taken inside an invalidation
//                             mirrorDirectory
//                           pmd          page tables
//                             pte
//                               swap
//                                 lru
//     zone                               may be taken under anything above
//       leaf                             may be taken under anything but a pool
//         pool                           may be taken under anything
//
// Exceptions
// ----------
// - Try variants never wait, so they are taken against the order; the caller has a fallback. What they took counts
//   as held afterwards.
// - Two locks of class pmd, or two of class pte, are held together in ascending address order (remap).
// - The mmap write lock of a child that nobody else can reach is taken inside that of its parent (fork): the nested
//   variants say so. They admit one outer lock of the same class.
// - A second folio lock is only tried, never waited for.
// - For the same class, waiting for the object that one holds already is always wrong: no lock here is recursive, and
//   neither is a read lock, because a writer that arrived in between stands before the second reader.
//
// Differs from Linux: the comment at the head of mm/rmap.c (6.12) lists the VMA lock below the folio lock. Faults wait
// for folio locks while they hold a VMA lock for reading, and nobody waits for a VMA lock with a folio locked; so here
// it stands where it is used, directly inside the mmap lock.

/// A thread waited for a lock in the wrong order, or released one that it did not hold.
public struct LockOrderViolation: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Kind: Hashable, Sendable {
        /// `lockClass` was to be waited for while `held` was held.
        case order
        /// The thread holds this very lock.
        case recursion
        /// The thread released a lock of a class of which it holds none.
        case notHeld
    }

    public let kind: Kind
    public let lockClass: LockClass
    public let object: UInt
    /// The outermost offending lock that is held; `lockClass` again for `.notHeld`.
    public let held: LockClass
    public let heldObject: UInt

    public var description: String { description { "\($0) (0x\(String($1, radix: 16)))" } }

    /// The same, with locks called as `place` says: addresses differ from run to run.
    package func description(_ place: (LockClass, UInt) -> String) -> String {
        switch kind {
        case .order: "waits for \(place(lockClass, object)) while holding \(place(held, heldObject))"
        case .recursion: "waits for \(place(lockClass, object)) which it holds"
        case .notHeld: "releases \(place(lockClass, object)) which it does not hold"
        }
    }
}

/// The watch over the lock order.
///
/// The locks of this folder report by themselves. A lock that lives elsewhere (the lock bit of a folio) calls
/// `willAcquire` before it waits, `acquired` when it has the lock by whatever way, and `released` before it lets go.
/// Without `HMM_INVARIANT_CHECKS` only virtual threads are watched; elsewhere the calls cost one predictable branch.
package enum LockOrder {
    /// Called before waiting for a lock; try variants leave it out. `nested` admits one outer lock of the same class.
    @inline(__always)
    package static func willAcquire(_ lockClass: LockClass, _ object: UInt, nested: Bool = false) {
        guard Seam.isWatching else { return }
        check(lockClass, object, nested: nested)
    }

    /// Called when the lock is held.
    @inline(__always)
    package static func acquired(_ lockClass: LockClass, _ object: UInt) {
        guard let thread = Seam.watchedThread else { return }
        hmm_held_add(thread, UInt32(lockClass.rank), object)
    }

    /// Called before the lock is released, by the thread that acquired it.
    @inline(__always)
    package static func released(_ lockClass: LockClass, _ object: UInt) {
        guard let thread = Seam.watchedThread else { return }
        if !hmm_held_remove(thread, UInt32(lockClass.rank), object) {
            report(thread, .init(kind: .notHeld, lockClass: lockClass, object: object, held: lockClass, heldObject: 0))
        }
    }

    @inline(never)
    private static func check(_ lockClass: LockClass, _ object: UInt, nested: Bool) {
        guard let thread = Seam.watchedThread else { return }
        let offending = thread.pointee.held_mask & ~lockClass.mayBeHeld
        if offending == 0 { return }
        let rank = UInt32(lockClass.rank)
        let isHeldOnce = hmm_held_count(thread, rank) == 1
        let same = hmm_held_objects(thread, rank)
        if offending == lockClass.bit, isHeldOnce, same != object {
            if nested || (lockClass.allowsAscendingPair && same < object) { return }
        }
        let held = LockClass(rank: UInt8(offending.trailingZeroBitCount))
        let isRecursion = isHeldOnce && same == object
        report(
            thread,
            .init(
                kind: isRecursion ? .recursion : .order, lockClass: lockClass, object: object, held: held,
                heldObject: hmm_held_objects(thread, UInt32(held.rank))))
    }

    @inline(never)
    private static func report(_ thread: UnsafeMutablePointer<hmm_thread>, _ violation: LockOrderViolation) {
        guard let scheduler = thread.pointee.scheduler else { fatalError("lock order: \(violation)") }
        Unmanaged<Scheduler>.fromOpaque(scheduler)._withUnsafeGuaranteedRef { $0.lockOrderViolation(violation) }
    }
}
