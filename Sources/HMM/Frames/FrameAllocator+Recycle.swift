import Synchronization

// A machine that runs one schedule after the other must hand out the same frames in the same order each time, and with
// the same bytes. What was used is put back, and nothing else is looked at.

extension FrameAllocator {
    /// More touched frames than this go back to the host instead of being cleared.
    private static let clearedFrames: UInt32 = 4096

    /// Makes the allocator, the records and the bytes of its frames what they were before the first allocation. No
    /// frame is handed out, and nobody else calls.
    ///
    /// - Parameters:
    ///   - keepingGenerations: somebody may still compare the number of a frame's life.
    ///   - discarding: the bytes go back to the host, however few they are.
    func recycle(keepingGenerations: Bool = false, discarding: Bool = false) {
        precondition(usedFrames == 0, "an allocator was recycled with frames in use")
        lockLists()
        defer { unlockLists() }
        guard untouched > first else { return }
        for order in 0...Geometry.pmdOrder {
            var block = heads[order]
            while block != 0 {
                let next = records[Int(block)].next
                forget(block, keepingGenerations)
                block = next
            }
            heads[order] = 0
        }
        for i in 0..<stripeCount { stripe(i).frames.pointee.empty() }
        if !discarding, reached - first <= Self.clearedFrames {
            clearUsed(keepingGenerations)
        } else {
            let count = Int(reached - first)
            HostMemory.discard(bytes + Int(first) << 12, lengthBytes: count << 12)
            for frame in first..<reached { forget(frame, keepingGenerations) }
        }
        (untouched, reached) = (first, first)
        (taken, freeBlocks, transfers) = (0, 0, 0)
    }

    /// Clears the frames that had a life; the others have their first bytes still.
    private func clearUsed(_ keepingGenerations: Bool) {
        for frame in first..<reached {
            if records[Int(frame)].generation.load(ordering: .relaxed) != 0 {
                clearPages(bytes + Int(frame) << 12)
            }
            forget(frame, keepingGenerations)
        }
    }

    @inline(__always)
    private func forget(_ frame: UInt32, _ keepingGenerations: Bool) {
        let record = records + Int(frame)
        let generation = record.pointee.generation.load(ordering: .relaxed)
        FrameRecord.clear(record)
        if keepingGenerations { record.pointee.generation.store(generation, ordering: .relaxed) }
    }
}
