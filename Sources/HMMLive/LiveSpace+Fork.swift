import CLive
import Glibc
import HMM
import Synchronization

// Fork: both processes go on with their pages where they were, shared for reading; the child's slots are copies.
//
// Lock order: as everywhere; `delivery` and mmap (writing) are held across the fork, so that the child finds nothing
// halfway.

extension LiveSpace {
    /// fork(). Any fork of the process by the C library is as good: the handlers are the process's.
    public func fork() -> pid_t { clive_call_fork() }

    func installForkHandlers() {
        clive_at_fork(
            { LiveSpace.running?.prepareFork() }, { LiveSpace.running?.leaveFork(isChild: false) },
            { LiveSpace.running?.leaveFork(isChild: true) })
    }

    private static var running: LiveSpace? { forking.load() }

    private func prepareFork() {
        delivery.lock()
        deliverLocked()
        mmapLock.lockWrite()
        restoreAllExclusive()
        bringHomeForChild()
        noteProtection()
        shareMappings()
        clive_before_fork()
    }

    private func leaveFork(isChild: Bool) {
        if isChild { WaitQueue.forgetSleepers() }
        let status = isChild ? clive_after_fork_in_child() : clive_after_fork_in_parent()
        guard status == 0 || status == -EOPNOTSUPP else {
            fatalError("live memory did not survive a fork, for want of descriptors or threads: errno \(-status)")
        }
        if isChild {
            forks.add(1, ordering: .releasing)
            dropUntouched()
        }
        untouched = []
        mmapLock.unlockWrite()
        delivery.unlock()
        if isChild { startDeliveryThread() }
    }

    /// The copy of an exclusive page would need two owners: it is given back first, as the kernel does it.
    private func restoreAllExclusive() {
        for range in exclusiveMemory.chunkRanges {
            for offset in 0..<range.count {
                let owner = clive_owner((range.first + offset).raw)
                guard owner != 0 else { continue }
                bringHome(PageNumber(owner)..<PageNumber(owner + 1), .exclusive)
            }
        }
    }

    /// A child reads zeros in pages that are away until its own faults are answered. What it uses before that, the
    /// stack and what malloc gave, comes home first.
    private func bringHomeForChild() {
        var local: UInt8 = 0
        let own = UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque())
        let places = withUnsafePointer(to: &local) { [UInt(bitPattern: $0), own] }
            .map { PageNumber(containing: VirtualAddress(UInt64($0))) }
        var page = PageNumber(0)
        while let mapping = LiveMapping(endingAfter: page) {
            page = mapping.pages.upperBound
            let isNeeded = mapping.isStack || mapping.isHeap || places.contains(where: mapping.pages.contains)
            guard isNeeded else { continue }
            forEachAway(mapping.pages) { bringHome($0..<$0.advanced(by: 1), .clear) }
        }
    }

    /// What is private is shared for reading from now on, and mirrors lose the right to write it. Mappings in which
    /// nothing was ever written are not copied, and nobody is told of them.
    private func shareMappings() {
        var page = PageNumber(0)
        while let mapping = LiveMapping(endingAfter: page) {
            page = mapping.pages.upperBound
            guard mapping.isPrivate, !arenaPages.overlaps(mapping.pages), isKnown(mapping.pages) else { continue }
            if isAdopted(mapping.pages), !hasOwnPages(mapping) {
                untouched.append(mapping.pages)
                continue
            }
            Invalidation.begin(notifiers, InvalidationRange(.protectionPage, mapping.pages)).end()
            forEachAway(mapping.pages) { makeReadOnly($0) }
        }
    }

    private var arenaPages: PageRange {
        let (base, count) = machine.frames.arena
        let first = PageNumber(UInt64(UInt(bitPattern: base)) >> Geometry.pageShift)
        return first..<first.advanced(by: count)
    }

    /// All of it: then all of it was looked at.
    private func isAdopted(_ pages: PageRange) -> Bool {
        if adoptsPagesOnly(.handlerThread), clive_registered(pages.lowerBound.raw) != Int32(CLIVE_ON_THREAD.rawValue) {
            return false
        }
        return clive_registered(pages.lowerBound.raw) >= 0 && clive_registered(pages.upperBound.raw - 1) >= 0
    }

    private func isKnown(_ pages: PageRange) -> Bool {
        var isKnown = false
        forEachKnown(pages) { _ in isKnown = true }
        return isKnown
    }

    private func hasOwnPages(_ mapping: LiveMapping) -> Bool {
        var found = false
        forEachKnown(mapping.pages) { part in
            guard !found else { return }
            try? LiveLook.forEach(part, in: mapping) { _, seen throws(HMMError) in
                found = seen.word.isAway || (seen.isPresent && !seen.isZero && !seen.isFile)
                return !found
            }
        }
        return found
    }

    /// The child of a kernel that does not copy such mappings finds nothing in them; zeros are read either way.
    private func dropUntouched() {
        for pages in untouched { _ = clive_sys_madvise(pages.start, pages.lengthBytes, MADV_DONTNEED) }
    }
}

/// The live space, for handlers that get no argument. Set once.
let forking = RunningSpace()

final class RunningSpace: @unchecked Sendable {
    // A pointer to an object that lives as long as the process, or nil.
    private let pointer = Atomic<UInt>(0)

    func set(_ space: LiveSpace) {
        pointer.store(UInt(bitPattern: Unmanaged.passRetained(space).toOpaque()), ordering: .releasing)
    }

    func load() -> LiveSpace? {
        guard let raw = UnsafeRawPointer(bitPattern: pointer.load(ordering: .acquiring)) else { return nil }
        return Unmanaged<LiveSpace>.fromOpaque(raw).takeUnretainedValue()
    }
}
