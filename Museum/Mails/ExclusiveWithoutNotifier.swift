import HMM
import HMMExplorer

extension Exhibit {
    static let exclusiveWithoutNotifier = Exhibit(
        "exclusive-without-notifier",
        source: "[PATCH v1] mm/rmap: convert make_device_exclusive() to a folio walk, and the reply of 2025-01-30",
        story: """
            The patch as posted makes a present page exclusive without an invalidation: if another device had it \
            exclusively, the write fault before has told it. A device that maps the page like any other page was not \
            told, and goes on reading and writing it beside the atomics of the first. Answered by keeping the event, \
            with the owner as what tells the maker apart.
            """,
        kind: .staleMirror, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let atomic = try SmallDriver(space, device: 1)
        let other = try SmallDriver(space, device: 2)
        scene.thread("atomic device") {
            while true {
                let sequence = atomic.interval.readBegin()
                space.lockForReading()
                defer { space.unlockForReading() }
                switch version {
                case .asItWas: if try makeDeviceExclusive(atomic, sequence) { return }
                case .mended:
                    let grant = try space.makeExclusive(Place.base, owner: atomic.owner)
                    let isStored = atomic.storeUnlessRetry(Place.base, grant.frame, sequence)
                    grant.release()
                    if isStored { return }
                }
            }
        }
        scene.thread("other device") { _ = try other.fault(Place.base, write: true) }
        scene.join(watching: atomic, other)
        atomic.close()
        other.close()
        space.removeCPU(cpu)
        space.exit()
    }
}

/// make_device_exclusive() of the posted patch, and what a driver does while it has the folio locked.
private func makeDeviceExclusive(_ driver: SmallDriver, _ sequence: UInt64) throws(HMMError) -> Bool {
    let space = driver.space
    let frames = space.machine.frames
    let frame = try space.reference(Place.base, [.write, .splitHuge])
    defer { frames.put(frame) }
    guard frames.tryLockFolio(frame) else { return false }
    defer { frames.unlockFolio(frame) }
    guard let pte = space.tables.lockPTE(Place.base) else { return false }
    let entry = space.tables.read(pte)
    let isSame = entry.isWritable && entry.frame == frame
    // Wrong: a translation that others have copies of goes away, and nobody tells them.
    if isSame { space.replaceByExclusive(pte, frame) }
    space.tables.unlock(pte)
    return isSame && driver.storeUnlessRetry(Place.base, frame, sequence)
}
