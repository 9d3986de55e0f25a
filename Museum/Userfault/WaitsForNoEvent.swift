import HMM
import HMMExplorer

extension Exhibit {
    static let waitsForNoEvent = Exhibit(
        "waits-for-no-event",
        source: "Firecracker #4990, BuildBuddy #12673",
        story: """
            The handler reads a fault and the event of a removal in one go. Its copy for the fault gets EAGAIN, as \
            the removing thread has not gone on yet; the handler keeps the fault for later and polls for the next \
            event without a timeout. None will come: the thread that faulted sleeps for the copy, and the handler for \
            the thread. Mended: while a fault is kept, the poll has a timeout.
            """,
        kind: .deadlock
    ) { scene, version in
        let space = try scene.machine.makeAddressSpace()
        try space.map(Place.pages(2), protection: .readWrite, kind: .anonymous(huge: false))
        let userfault = Userfault(space)
        scene.thread("vcpu") {
            let word = try userfault.load(Place.base)
            scene.check(word == 7, "the page was filled with 7 and holds \(word)")
        }
        scene.thread("balloon") { try userfault.remove(Place.base.advanced(by: 1)) }
        scene.thread("handler") {
            var kept: [PageNumber] = []
            var unread = 2
            while unread > 0 || !kept.isEmpty {
                if version == .asItWas || kept.isEmpty { userfault.poll() } else { SyncThread.yield() }
                while let event = userfault.next() {
                    unread -= 1
                    if case .fault(let page) = event { kept.append(page) }
                }
                kept = try kept.filter { try userfault.copy(7, to: $0) == .tryAgain }
            }
        }
        scene.join()
        space.exit()
    }
}
