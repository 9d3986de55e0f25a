import HMMExplorer
import Synchronization
import Testing

@testable import HMM

@Suite("Reclaim loses nothing that is written by a reference")
struct ReclaimTests {
    /// A page, private or shared, that was read only or written, goes to swap while somebody with a reference writes to
    /// it. The bytes themselves are no object of a step, so orders are tried at random.
    @Test(arguments: [false, true], [false, true])
    func writeByReference(isShared: Bool, isWritten: Bool) {
        var options = ExplorationOptions()
        options.strategy = .pct(3)
        options.schedules = 3_000
        let exploration = explore(options) { scene in
            let page = PageNumber(0x10000)
            let space = try scene.machine.makeAddressSpace()
            let pages = page..<page.advanced(by: 1)
            try space.map(pages, protection: [.read, .write], kind: isShared ? .sharedAnonymous : .anonymous())
            let cpu = space.makeCPU()
            if isWritten { try cpu.store(1, at: page.address) } else { _ = try cpu.load(page.address) }
            scene.thread("pageout") { try space.advise(pages, .pageout) }
            scene.thread("writer") {
                space.lockForReading()
                let frame = try space.reference(page, .write)
                space.unlockForReading()
                scene.machine.frames.words(of: frame)[0].store(2, ordering: .relaxed)
                space.release(frame, .write)
            }
            scene.join()
            scene.check(try cpu.load(page.address) == 2, "what was written by a reference is lost")
            space.removeCPU(cpu)
            space.exit()
        }
        #expect(exploration.failure == nil)
    }

    @Test("Two who want the same run of used swap slots: one gets it, or none, and nothing is left in use")
    func collidingRuns() {
        var options = ExplorationOptions()
        options.strategy = .unreduced
        var outcomes: Set<Int> = []
        let exploration = explore(options) { scene in
            let swap = FolioSteps.swapArea(slots: 3)
            let got = SharedWord()
            let slots = (0..<3).map { _ in swap.allocate()! }
            slots.forEach(swap.put)
            for name in 1...2 {
                scene.thread("\(name)") {
                    guard let first = swap.allocate(2) else { return }
                    got.store(got.now + name)
                    for slot in slots where slot == first || slot.raw == first.raw + 1 { swap.put(slot) }
                }
            }
            scene.join()
            outcomes.insert(got.now)
            scene.check(swap.usedSlots == 0, "slots are left in use")
            let again = slots.compactMap { _ in swap.allocate() }
            scene.check(Set(again).count == 3, "slots are lost, or handed out twice")
            again.forEach(swap.put)
        }
        #expect(exploration.failure == nil && exploration.isComplete)
        #expect(outcomes.isSuperset(of: [1, 2, 3]))
    }
}
