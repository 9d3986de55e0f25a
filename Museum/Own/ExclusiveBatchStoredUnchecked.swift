import HMM
import HMMExplorer

// Lock order: mmap > folio > driver.

extension Exhibit {
    static let exclusiveBatchStoredUnchecked = Exhibit(
        "exclusive-batch-stored-unchecked",
        source: "swift-hmm DmirrorMirror.store(), found by this explorer",
        story: """
            The driver took a batch of exclusive pages in the way of 6.12 and stored all that were granted, because \
            their folios are locked. Zap needs no folio lock: MADV_DONTNEED of one of the pages clears its exclusive \
            entry, invalidates a mirror that has nothing yet, and the driver stores a page that is nowhere mapped. \
            Fixed by a sequence that is read after the conversion, under which every entry is looked at again.
            """,
        kind: .staleMirror, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        let driver = try SmallDriver(space)
        scene.thread("device") {
            space.lockForReading()
            let batch = try space.makeExclusiveBatch(Place.pages(2))
            switch version {
            case .asItWas: driver.storeGranted(batch)
            case .mended: driver.storeStanding(batch)
            }
            batch.release()
            space.unlockForReading()
        }
        scene.thread("madvise") { try space.advise(Place.pages(1), .dontneed) }
        scene.join(watching: driver)
        driver.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

extension SmallDriver {
    fileprivate func storeGranted(_ batch: borrowing ExclusiveBatch) {
        lock.lock()
        defer { lock.unlock() }
        for (index, frame) in batch.granted.enumerated() where frame != .none {
            // Wrong: nothing tells whether an invalidation has been and gone.
            storeLocked(Place.base.advanced(by: index), frame, isWritable: true, isAtomic: true)
        }
    }

    fileprivate func storeStanding(_ batch: borrowing ExclusiveBatch) {
        while true {
            let sequence = interval.readBegin()
            lock.lock()
            defer { lock.unlock() }
            if interval.readRetry(sequence) { continue }
            for (index, frame) in batch.granted.enumerated() where batch.isStanding(index) {
                storeLocked(Place.base.advanced(by: index), frame, isWritable: true, isAtomic: true)
            }
            return
        }
    }
}
