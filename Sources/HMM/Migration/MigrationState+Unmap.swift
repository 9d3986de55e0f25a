// After the walk: the entries that it did not meet, and the pages that cannot go.
//
// Kernel: mm/migrate_device.c migrate_device_unmap, migrate_vma_check_page (6.12). Differs from Linux: pages need not
// be isolated from the lists of reclaim first, because reclaim finds pages by their entries only, and these are gone.

extension MigrationState {
    /// Replaces all other entries of the collected folios, in whatever address space, and puts back what others use.
    func unmapCollected() {
        var refused = 0
        for index in 0..<pages.pageCount where source[index] & MigrationWord.held != 0 {
            let head = MigrationWord.frame(source[index])
            if frames.mappingCount(head) > 0 {
                source[index] |= MigrationWord.shared
                _ = machine.installMigrationEntries(head)
            }
            if frames.mappingCount(head) > 0 || !isOnlyOurs(head) {
                refuse(index)
                refused += 1
            }
        }
        if refused > 0 { restoreRefused() }
    }

    /// Whether all references of an unmapped folio are explained: ours, the cache's, and that of who faults on it.
    @inline(__always)
    func isOnlyOurs(_ head: FrameNumber) -> Bool {
        var explained = head == faultHead ? 2 : 1
        if frames.hasFlags(head, FrameFlags.swapCache) { explained += frames.pageCount(ofHead: head) }
        return frames.refCount(head) == explained
    }

    /// The page, or the unit, stays.
    func refuse(_ index: Int) {
        guard source[index] & MigrationWord.migrate != 0 else { return }
        source[index] &= ~MigrationWord.migrate
        collectedCount -= source[index] & MigrationWord.compound == 0 ? 1 : 1 << Geometry.pmdOrder
    }

    /// Gives refused pages their old entries back, and lets go of them.
    func restoreRefused() {
        finishPages { $0 & MigrationWord.migrate == 0 }
    }
}
