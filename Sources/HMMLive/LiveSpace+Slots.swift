import CLive
import HMM

// Slots that are empty go back to the memory of their device.
//
// Slots that were handed out as one folio of 2 MiB are one for as long as all of them are in use: who gives a part of
// them back makes single ones of them first.
//
// Lock order: the folio, by trylock. Its holder waits for nobody; the caller may hold others.

extension LiveSpace {
    /// The slot is empty.
    func giveBack(slot frame: FrameNumber) {
        var number = frame.raw
        withUnsafeMutablePointer(to: &number) {
            _ = giveBack(slots: UnsafeMutableBufferPointer(start: $0, count: 1))
        }
    }

    /// The slots are empty; numbers of 0 are passed over. Answers how many there were.
    ///
    /// Whoever filled one for a device a moment ago may still be mapping it, with its folio locked: it is free after
    /// that.
    ///
    /// - Parameter held: a folio that the caller has locked, with a reference of its own.
    @discardableResult
    func giveBack(slots: UnsafeMutableBufferPointer<UInt32>, holding held: FrameNumber = .none) -> Int {
        let size = 1 << Geometry.pmdOrder
        return withUnsafeTemporaryAllocation(of: FrameNumber.self, capacity: slots.count) { free in
            var (count, singles, index) = (0, 0, 0)
            while index < slots.count {
                let frame = FrameNumber(slots[index])
                guard frame != .none else {
                    index += 1
                    continue
                }
                if machine.frames.isLarge(frame) {
                    let isWhole = machine.frames.head(of: frame) == frame && index + size <= slots.count
                        && isRun(slots, from: index, count: size)
                    if isWhole, giveBack(unit: frame, holding: held) {
                        index += size
                        count += size
                        continue
                    }
                    if !isWhole { split(frame, holding: held) }
                }
                if frame != held { waitForUnlock(frame) }
                free[singles] = frame
                singles += 1
                count += 1
                index += 1
            }
            machine.frames.putSingles(free.baseAddress!, count: singles)
            return count
        }
    }

    /// Whether neighbours begin there.
    private func isRun(_ slots: UnsafeMutableBufferPointer<UInt32>, from first: Int, count: Int) -> Bool {
        let slots = slots.baseAddress! + first
        let start = slots[0]
        var differences: UInt32 = 0
        for offset in 0..<count { differences |= slots[offset] ^ (start &+ UInt32(truncatingIfNeeded: offset)) }
        return differences == 0
    }

    private func waitForUnlock(_ head: FrameNumber) {
        while machine.frames.isLocked(head) { SyncThread.yield() }
    }

    /// All slots of a folio, the first of which this is. False: it is single ones now.
    private func giveBack(unit head: FrameNumber, holding held: FrameNumber) -> Bool {
        if head != held { waitForUnlock(head) }
        // Nobody else splits it now: for that, one of its slots would have to be somebody else's to give back, or to
        // empty. Who found it in use to evict it holds it locked, and finds no page of it.
        guard machine.frames.isLarge(head) else { return false }
        machine.frames.put(head)
        return true
    }

    /// Makes single folios of the one that a slot belongs to, if it still is one.
    private func split(_ slot: FrameNumber, holding held: FrameNumber) {
        let frames = machine.frames
        while frames.isLarge(slot) {
            if frames.head(of: slot) == held { return frames.splitUnmapped(held) }
            // The slot's own reference keeps the folio, so there is one to be had.
            guard frames.tryGet(slot) else {
                SyncThread.yield()
                continue
            }
            let head = frames.head(of: slot)
            if frames.tryLockFolio(head) {
                if frames.isLarge(head) { frames.splitUnmapped(head) }
                frames.unlockFolio(head)
            } else {
                SyncThread.yield()
            }
            frames.put(head)
        }
    }
}
