import CLive
import Glibc
import HMM

// Pages that become a device's at their own address: device-coherent memory, which the CPU can address, and what
// userfaultfd cannot answer for. Where device-coherent memory is a node of the machine, they go to that node.

extension LiveMigration {
    /// Puts 0, or an errno, into `results` for each page of the run.
    func enterInPlace(
        _ run: Range<Int>, _ memory: DeviceMemory?, _ results: UnsafeMutableBufferPointer<UInt8>
    ) {
        for index in run {
            // A hole is filled with the device's zeros, which are the CPU's.
            let isThere = source[index] & MigrationWord.held != 0 || space.fill(page(index), write: fillsWritable)
            results[index - run.lowerBound] = isThere ? 0 : UInt8(EBUSY)
        }
        if let memory, memory.kind == .coherent, let nodes = space.memoryNodes {
            moveToNode(run.filter { results[$0 - run.lowerBound] == 0 }, memory, nodes) { index, error in
                results[index - run.lowerBound] = error
            }
        }
        for index in run where results[index - run.lowerBound] == 0 && !countIn(index) {
            results[index - run.lowerBound] = UInt8(EBUSY)
        }
    }

    /// Calls `note` for the pages that could not go. Those that the kernel does not move become the device's where they
    /// are: what is shared with another process, and the page of zeros where nobody may write.
    private func moveToNode(
        _ indices: [Int], _ memory: DeviceMemory, _ nodes: MemoryNodes, _ note: (Int, UInt8) -> Void
    ) {
        var results = [UInt8](repeating: 0, count: indices.count)
        nodes.take(indices.map { page($0).raw }, &results)
        again(indices, &results, nodes) { index, error in
            switch Int32(error) {
            case ENOENT: clive_populate(page(index).raw, 1, false) == 0
            case EFAULT: fillsWritable && space.fill(page(index), write: true)
            default: false
            }
        }
        // What a node frees it does not hand out at once: some of it is kept in reserve, or by a processor.
        for reserve in [64, 256, 1024] where isEvicting {
            let full = results.count { $0 == UInt8(ENOMEM) }
            guard full > 0, space.evictLeastRecentlyUsed(of: memory, count: full + reserve) > 0 else { break }
            again(indices, &results, nodes) { _, error in error == UInt8(ENOMEM) }
        }
        for (index, error) in zip(indices, results) {
            switch Int32(error) {
            case 0, EACCES, EFAULT: continue
            case ENOMEM: missingDestinations += 1
            default: break
            }
            note(index, error)
        }
    }

    /// Once more, for those pages of which `decide` says so.
    private func again(
        _ indices: [Int], _ results: inout [UInt8], _ nodes: MemoryNodes, if decide: (Int, UInt8) -> Bool
    ) {
        let some = results.indices.filter { results[$0] != 0 && decide(indices[$0], results[$0]) }
        guard !some.isEmpty else { return }
        var new = [UInt8](repeating: 0, count: some.count)
        nodes.take(some.map { page(indices[$0]).raw }, &new)
        for (position, result) in zip(some, new) { results[position] = result }
    }

    /// A page of device-coherent memory stays at its address: the CPU can address it there.
    private func countIn(_ index: Int) -> Bool {
        let page = page(index)
        let frame = MigrationWord.frame(destination[index])
        guard let home = try? liveFrame(page), space.count(page, to: frame) else { return false }
        // What mirrors are told is the page itself, so the frame has no part in the rest.
        frames.unlockFolio(frame)
        destination[index] = UInt64(home.raw) | HMMPageWord.valid
        return true
    }

    // MARK: Leaving

    /// Page by page: some are in slots, some are counted where they are.
    func leaveInPlace(_ run: Range<Int>) {
        let home = leaveNode(run)
        var moved = 0
        for index in run {
            let isGone =
                MigrationWord.frame(source[index]).isLive
                ? space.uncount(page(index), FrameNumber(slots[index]), isHome: home.contains(page(index).raw))
                : bring(page(index))
            if isGone { moved += 1 } else { refuse(index) }
        }
        noteLeft(moved)
    }

    /// Pages that are on no device's node any more, or need not leave it: another device's memory is there too.
    private func leaveNode(_ run: Range<Int>) -> Set<UInt64> {
        let there = run.filter {
            MigrationWord.frame(source[$0]).isLive && space.isOnNode(FrameNumber(slots[$0]))
        }
        let staying = there.filter {
            !isBoundForHome && space.isOnNode(MigrationWord.frame(destination[$0]))
        }.map { page($0).raw }
        let leaving = Set(there.map { page($0).raw }).subtracting(staying)
        return space.bringHomeFromNode(leaving.sorted()).union(staying)
    }
}
