import HMM
import HMMExplorer

extension Exhibit {
    static let dropLeftToEachOther = Exhibit(
        "drop-left-to-each-other",
        source: "swift-hmm Machine.dropIfUnused(), found by this explorer",
        story: """
            Two threads have dropped a swap entry each, and want to know whether the page in the swap cache is still \
            of use. Who does not get the folio's lock leaves a mark for whoever has it, who looks again after the \
            unlock, and tries once more, in case the mark came too late. So both may have the lock in turns, each with \
            a mark of the other, for as long as they run in step. Fixed by a mark that is left only while somebody has \
            the lock, and no second try then.
            """,
        kind: .livelock, strategy: .random, isExhaustive: true, stepLimit: 300
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 1)
        let (machine, frames) = (scene.machine, scene.machine.frames)
        let folio = space.mappedFrame(Place.base)!
        // In the swap cache, and mapped: nobody can drop it.
        frames.lockFolio(folio)
        scene.check(machine.addToSwap(folio), "there is no swap")
        frames.unlockFolio(folio)

        let dropper: any SwapCacheDropper = version == .asItWas ? HastyDropper(machine) : machine
        frames.swapCacheDropper = dropper
        for name in ["one", "two"] {
            frames.get(folio)
            scene.thread(name) {
                dropper.dropIfUnused(folio)
                frames.put(folio)
            }
        }
        scene.join()
        frames.swapCacheDropper = machine
        space.removeCPU(cpu)
        space.exit()
    }
}

/// Machine.dropIfUnused() as it was.
private final class HastyDropper: SwapCacheDropper, @unchecked Sendable {
    // Has no state of its own.
    private let machine: Machine

    init(_ machine: Machine) { self.machine = machine }

    func dropIfUnused(_ folio: FrameNumber) {
        let frames = machine.frames
        if !frames.tryLockFolio(folio) {
            frames.setFlags(folio, FrameFlags.dropWanted)
            // Wrong: the mark is there, and now this one may get the lock all the same.
            guard frames.tryLockFolio(folio) else { return }
        }
        // The number of mappings was no step of its own then.
        if frames.unusedMappingCount(folio) == 0 { machine.tryFreeSwap(folio) }
        frames.unlockFolio(folio)
    }
}
