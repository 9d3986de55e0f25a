import HMM
import HMMExplorer
import Synchronization
import Testing

// The code of Documentation/exploring.md, which shows parts of this file as they stand here.

/// A device that looks at one page of a process. It keeps the frame that holds the page.
class PageMirror: IntervalNotifierClient, ObjectNaming, @unchecked Sendable {
    let space: any DeviceAddressSpace
    let page: PageNumber
    /// The driver lock.
    let lock = FairMutex(.driver)
    /// The frame that the device may read. Guarded by `lock`.
    var frame: FrameNumber?
    private(set) var interval: IntervalNotifier!

    init(_ space: any DeviceAddressSpace, _ page: PageNumber) throws(HMMError) {
        self.space = space
        self.page = page
        interval = try space.notifiers.insert(self, over: page..<page.advanced(by: 1))
    }

    func close() { interval.remove() }

    /// The page is about to change: the device forgets it.
    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if range.isBlockable { lock.lock() } else if !lock.tryLock() { return false }
        defer { lock.unlock() }
        notifier.setSequence(sequence)
        frame = nil
        return true
    }

    /// The first word of the page, as the device sees it.
    func read() throws(HMMError) -> UInt64 {
        while true {
            lock.lock()
            space.announceAccess(to: page, .read)
            let word = frame.map { space.frameWindow.words(of: $0)[0].load(ordering: .relaxed) }
            lock.unlock()
            if let word { return word }
            try fault()
        }
    }

    /// A device fault: finds out where the page is, and keeps it.
    func fault() throws(HMMError) {
        var range = HMMRange(interval, page..<page.advanced(by: 1))
        range.defaultRequest = .fault
        _ = try space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
            lock.lock()
            defer { lock.unlock() }
            range.forEachValidRun { frame = $0.firstFrame }
            return true
        }
    }

    /// What people call the lock, in a schedule that is shown.
    func objectName(at address: UInt) -> String? { address == lock.address ? "driver lock" : nil }
}

final class PatientPageMirror: PageMirror, @unchecked Sendable {
    override func fault() throws(HMMError) {
        var range = HMMRange(interval, page..<page.advanced(by: 1))
        range.defaultRequest = .fault
        _ = try space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
            lock.lock()
            defer { lock.unlock() }
            // Whatever was invalidated since the range was read may be what was read.
            guard !range.mustRetry() else { return false }
            range.forEachValidRun { frame = $0.firstFrame }
            return true
        }
    }
}

@Suite("The tutorial")
struct TutorialTests {
    /// A process writes to its page for the first time, while the device looks at it.
    func race(_ scene: Scene, _ makeMirror: (AddressSpace, PageNumber) throws -> PageMirror) throws {
        let process = try scene.machine.makeAddressSpace()
        let page = PageNumber(0x10000)
        try process.map(page..<page.advanced(by: 1), protection: [.read, .write], kind: .anonymous())
        scene.name(page..<page.advanced(by: 1), "a")
        let cpu = process.makeCPU()
        let mirror = try makeMirror(process, page)

        scene.thread("device") {
            scene.mark("the device reads a")
            _ = try mirror.read()
        }
        scene.thread("process") {
            scene.mark("the process writes 2 to a")
            try cpu.store(2, at: page.address)
        }
        scene.join()

        let seen = try mirror.read()
        scene.check(seen == 2, "the device reads \(seen), and the page holds 2")
        mirror.close()
        process.removeCPU(cpu)
        process.exit()
    }

    @Test("The first version is found out, with a schedule that a person can read")
    func firstVersion() throws {
        do {
            try explored { scene in try race(scene) { try PageMirror($0, $1) } }
            Issue.record("nothing was found")
        } catch let failure as ExplorationFailure {
            #expect(failure.kind == .assertion)
            #expect(failure.what == "the device reads 0, and the page holds 2")
            #expect(failure.preemptions == 1)
            let text = failure.description
            for part in ["the device reads a", "the process writes 2 to a", "driver lock", "PTE of page a"] {
                #expect(text.contains(part), "\(text)")
            }
            #expect(throws: ExplorationFailure.self) {
                try explored(replaying: "\(failure.token)") { scene in try race(scene) { try PageMirror($0, $1) } }
            }
        }
    }

    @Test("The mirror is never stale")
    func mirrorIsNeverStale() throws {
        let exploration = try explored { scene in try race(scene) { try PatientPageMirror($0, $1) } }
        #expect(exploration.isComplete)
    }
}
