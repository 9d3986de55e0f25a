import HMMExplorer

@testable import HMM

/// Races on what folios and swap slots show to who has them not locked.
enum FolioSteps {
    static let all: [SmallRace] = [
        // Slots that are taken together are taken one after the other, as who looks at them sees it.
        SmallRace(name: "a run of used swap slots, and one who looks at the last and then at the first") { scene in
            let frame = FrameNumber(2048)
            let seen = SharedWord()
            let swap = swapArea(slots: 2)
            let slots = [swap.allocate()!, swap.allocate()!]
            slots.forEach(swap.put)
            scene.thread("takes") { _ = swap.allocate(2, caching: frame) }
            scene.thread("looks") {
                for slot in slots.reversed() { seen.store(seen.now * 10 + (swap.cachedFrame(slot) == nil ? 1 : 2)) }
            }
            scene.join()
            slots.forEach(swap.removeCache)
            return "\(seen.now)"
        },
        // A page of a large folio has the references of its head.
        SmallRace(name: "a large folio that is frozen and thawed, and one who knows its last page") { scene in
            let (frames, got, mark) = (scene.machine.frames, SharedWord(), SharedWord())
            let head = frames.allocateFolio(order: 1)!
            scene.thread("freezes") {
                guard frames.freeze(head, expected: 1) else { return }
                mark.store(1)
                frames.unfreeze(head, count: 1)
            }
            scene.thread("looks") {
                guard frames.tryGet(head + 1) else { return }
                got.store(mark.now + 1)
                frames.put(head + 1)
            }
            scene.join()
            frames.put(head)
            return "\(got.now) \(mark.now)"
        },
        looked("the list of reclaim", { $0.isOnLRU($1) }, { $0.putOnLRU($1) }, { $0.takeOffLRU($1) }),
        looked("the swap cache", { $0.isInSwapCache($1) }, { $0.joinSwapCache($1, 0) }, { $0.leaveSwapCache($1) }),
        looked("pins", { $0.mayBePinned($1) }, { $0.pin($1) }, { $0.unpin($1) }),
    ]

    static func swapArea(slots: Int) -> SwapArea {
        do {
            return try SwapArea(bytes: slots * Geometry.pageSizeBytes, injector: FaultInjector())
        } catch {
            preconditionFailure("\(error)")
        }
    }

    /// A thread enters a folio somewhere and takes it out again, with the folio locked; another one looks twice.
    private static func looked(
        _ place: String, _ isThere: @escaping @Sendable (FrameTable, FrameNumber) -> Bool,
        _ enter: @escaping @Sendable (FrameTable, FrameNumber) -> Void,
        _ leave: @escaping @Sendable (FrameTable, FrameNumber) -> Void
    ) -> SmallRace {
        SmallRace(name: "\(place), looked at without the lock of the folio") { scene in
            let (frames, inside, seen) = (scene.machine.frames, SharedWord(), SharedWord())
            let frame = frames.allocateFolio()!
            scene.thread("changes") {
                frames.lockFolio(frame)
                enter(frames, frame)
                inside.store(1)
                leave(frames, frame)
                frames.unlockFolio(frame)
            }
            scene.thread("looks") {
                for _ in 0..<2 { seen.store(seen.now * 10 + (isThere(frames, frame) ? 1 : 2)) }
            }
            scene.join()
            frames.put(frame)
            return "\(seen.now)"
        }
    }
}
