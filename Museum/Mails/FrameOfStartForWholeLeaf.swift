import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let frameOfStartForWholeLeaf = Exhibit(
        "frame-of-start-for-whole-leaf",
        source: "[PATCH v12 08/29] HMM: add device page fault support v6, hmm_mirror_fault_hpmd, 2016-03",
        story: """
            A device faults in the middle of a huge page. follow_trans_huge_pmd names the frame of that address; then \
            the driver moves the start of its loop down to the start of the huge page, \
            to fill all 512 entries, but not the frame. Every entry is wrong by the offset of the fault, and the last \
            ones name frames of somebody else. No second thread is needed. Mended: the core's range fault, in which \
            each page has its own frame.
            """,
        kind: .value, isExhaustive: true
    ) { scene, version in
        let block = Place.pages(1 << Geometry.pmdOrder)
        let space = try scene.machine.makeAddressSpace()
        try space.map(block, protection: .readWrite, kind: .anonymous(huge: true))
        let cpu = space.makeCPU()
        let faulted = block.lowerBound.advanced(by: 3)
        try cpu.store(1, at: block.lowerBound.address)
        try cpu.store(4, at: faulted.address)
        let mirror = FlatMirror()
        let driver = try Subscription(to: space, over: block) { range in
            // Only a table that may not be waited for refuses.
            _ = mirror.invalidate(range.pages, keeping: .nothing, isBlockable: true)
        }
        scene.thread("device fault") {
            switch version {
            case .asItWas: try fillFrom(faulted, block, of: space, driver, mirror)
            case .mended: try fill(block, of: space, driver, mirror)
            }
            guard let entry = mirror.lookup(faulted) else { return scene.fail("the fault left nothing") }
            let word = space.machine.frames.words(of: entry.frame)[0].load(ordering: .relaxed)
            if word != 4 { scene.fail("the page holds 4, the device read \(word)", kind: .value) }
        }
        scene.join()
        driver.remove()
        space.removeCPU(cpu)
        space.exit()
    }

    /// hmm_mirror_fault_hpmd.
    private static func fillFrom(
        _ page: PageNumber, _ block: PageRange, of space: AddressSpace, _ driver: Subscription, _ mirror: FlatMirror
    ) throws(HMMError) {
        space.lockForReading()
        defer { space.unlockForReading() }
        guard let frame = space.mappedFrame(page) else { return }
        driver.lock.lock()
        defer { driver.lock.unlock() }
        try mirror.commit([MirrorRun(pages: block, firstFrame: frame, isWritable: true)])
    }

    private static func fill(
        _ block: PageRange, of space: AddressSpace, _ driver: Subscription, _ mirror: FlatMirror
    ) throws(HMMError) {
        var range = HMMRange(driver.interval, block)
        range.defaultRequest = [.fault, .write]
        _ = try space.deviceFault(&range) { (range: borrowing HMMRange) throws(HMMError) in
            var runs: [MirrorRun] = []
            range.forEachValidRun { run in
                runs.append(MirrorRun(pages: run.pages, firstFrame: run.firstFrame, isWritable: run.isWritable))
            }
            driver.lock.lock()
            defer { driver.lock.unlock() }
            if range.mustRetry() { return false }
            try mirror.commit(runs)
            return true
        }
    }
}
