import HMM
import HMMExplorer

extension Exhibit {
    static let writeBeforeProtection = Exhibit(
        "write-before-protection",
        source: "e2b, sync_wp_atomicity_test.go",
        story: """
            A handler learns which pages are written by protecting each one that it fills: COPY with DONTWAKE, \
            WRITEPROTECT, then WAKE, so that who has faulted finds the page protected. But who has not, because it \
            comes between the first two, need not sleep: it writes without a fault, and the next snapshot leaves the \
            page out. Mended: COPY with MODE_WP, which fills and protects in one step.
            """,
        kind: .value, strategy: .pct(2), isExhaustive: true
    ) { scene, version in
        let space = try scene.machine.makeAddressSpace()
        try space.map(Place.pages(1), protection: .readWrite, kind: .anonymous(huge: false))
        let userfault = Userfault(space)
        let isDirty = DriverWord()
        scene.thread("vcpu") {
            try userfault.store(2, to: Place.base)
            userfault.end()
        }
        scene.thread("handler") { try serve(userfault, isDirty, version) }
        scene.join()
        if try userfault.present(Place.base) == 2, isDirty.now == 0 {
            scene.fail("the page was written, and a snapshot of what is dirty leaves it out", kind: .value)
        }
        space.exit()
    }

    /// Fills the page from an image of sevens, because somebody else has faulted on it, and answers faults until the
    /// program ends. Notes whether its page is written.
    private static func serve(_ userfault: Userfault, _ isDirty: DriverWord, _ version: Version) throws(HMMError) {
        try fill(Place.base, userfault, version)
        while true {
            userfault.poll()
            switch userfault.next() {
            case .fault(let page): try fill(page, userfault, version)
            case .write(let page):
                isDirty.now = 1
                userfault.protect(page, false)
            case .removal, nil: continue
            case .end: return
            }
        }
    }

    private static func fill(_ page: PageNumber, _ userfault: Userfault, _ version: Version) throws(HMMError) {
        switch version {
        case .asItWas:
            if try userfault.copy(7, to: page, .dontWake) == .copied { userfault.protect(page, true) }
            userfault.wake()
        case .mended: _ = try userfault.copy(7, to: page, .protected)
        }
    }
}
