import HMM
import HMMExplorer

extension Exhibit {
    static let staleSourceAfterRemove = Exhibit(
        "stale-source-after-remove",
        source: "e2b, test StaleSourceRaceMissingAndRemove",
        story: """
            A fault handler looks up where the contents of a missing page come from: the image. Then the program \
            removes the page, which from now on is to read as zero; the handler's other thread reads the event and \
            notes it. The copy of the first thread is no longer refused then, and brings the image back. Mended: the \
            look and the copy are one step under a lock that the reader of events takes to note a removal.
            """,
        kind: .value, isExhaustive: true
    ) { scene, version in
        let space = try scene.machine.makeAddressSpace()
        try space.map(Place.pages(1), protection: .readWrite, kind: .anonymous(huge: false))
        let userfault = Userfault(space)
        let sources = PageSources()
        scene.thread("fault worker") {
            switch version {
            case .asItWas:
                let word = sources.lock.withLock { sources.word }
                _ = try userfault.copy(word, to: Place.base)
            case .mended:
                // Not while a removal is announced and not noted: EAGAIN, and the fault stays queued.
                try sources.lock.withLock { () throws(HMMError) in
                    _ = try userfault.copy(sources.word, to: Place.base)
                }
            }
        }
        scene.thread("event reader") {
            userfault.poll()
            sources.lock.withLock { if userfault.next() != nil { sources.isRemoved.now = 1 } }
        }
        scene.thread("program") { try userfault.remove(Place.base) }
        scene.join()
        if let word = try userfault.present(Place.base), word != 0 {
            scene.fail("the page was removed, and holds \(word) of the image again", kind: .value)
        }
        space.exit()
    }
}

/// Where the handler takes the contents of a page from.
private final class PageSources: Sendable {
    private static let imageWord: UInt64 = 7
    let lock = SleepLock()
    /// Guarded by `lock`.
    let isRemoved = DriverWord()
    /// Caller holds `lock`.
    var word: UInt64 { isRemoved.now == 1 ? 0 : Self.imageWord }
}
