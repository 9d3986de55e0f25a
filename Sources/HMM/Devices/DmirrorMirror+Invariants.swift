import Synchronization

extension DmirrorMirror {
    /// What the table takes, for summaries.
    package var tableBytes: Int { table.statistics.bytes }

    /// Everything that is wrong with this mirror, at a quiescent point: its table, and where it differs from what the
    /// CPU maps. Only the model's own address spaces can be looked into, and a mirror that is being closed may say what
    /// it likes: nobody tells it anything any more, and no request uses it.
    package func checkInvariants() -> [String] {
        var faults = table.checkInvariants()
        guard isOpen.load(ordering: .acquiring), let space = space as? AddressSpace else { return faults }
        table.forEachRun(in: PageNumber(0)..<Geometry.endPage) { run in
            for (offset, page) in run.pages.enumerated() {
                if let fault = Self.fault(page, run.firstFrame + offset, run, space) { faults.append(fault) }
            }
        }
        return faults.map { "\(device.name): \($0)" }
    }

    private static func fault(
        _ page: PageNumber, _ frame: FrameNumber, _ run: MirrorRun, _ space: AddressSpace
    ) -> String? {
        guard let (entry, level) = space.leaf(page) else { return "INV-DM-3: \(page) is mirrored, but not mapped" }
        let first = Int(page.raw & ((1 << UInt64(level.order)) - 1))
        let kind = entry.softLeaf?.kind
        guard entry.isPresent || kind == .devicePrivate || kind == .deviceExclusive, entry.frame + first == frame else {
            return "INV-DM-3: \(page) is mirrored as \(frame), the CPU's entry is \(entry)"
        }
        if run.isAtomic, kind != .deviceExclusive {
            return "INV-DM-5: \(page) is mirrored for atomics, the CPU's entry is \(entry)"
        }
        if run.isWritable, entry.isPresent, !entry.isWritable {
            return "INV-DM-4: \(page) is mirrored writable, the CPU's entry is \(entry)"
        }
        return nil
    }
}
