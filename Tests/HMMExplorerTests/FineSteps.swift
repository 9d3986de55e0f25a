import HMMExplorer
import Synchronization

@testable import HMM

/// Races on objects of the core whose steps are announced one by one: what does not commute must still be told apart.
enum FineSteps {
    static let all: [SmallRace] = [
        // No lock is common to a CPU and a device: what orders their accesses is that both announce them.
        SmallRace(name: "a CPU and a device on the bytes of a page") { scene in
            let (space, page) = (try! scene.machine.makeAddressSpace(), PageNumber(0x10000))
            try! space.map(page..<page.advanced(by: 1), protection: .readWrite, kind: .anonymous())
            let (cpu, box, seen) = (space.makeCPU(), MutexBox(), SharedWord())
            try! cpu.store(1, at: page.address)
            let frame = space.tables.read(space.tables.entry(page, .pte)!).frame
            scene.thread("cpu") {
                try cpu.store(2, at: page.address)
                seen.store(Int(try cpu.load(page.address)))
            }
            scene.thread("device") {
                box.mutex.lock()
                space.announceAccess(to: page, .atomic)
                _ = space.frameWindow.words(of: frame)[0].wrappingAdd(10, ordering: .relaxed)
                box.mutex.unlock()
            }
            scene.join()
            let last = try! cpu.load(page.address)
            space.removeCPU(cpu)
            space.exit()
            return "\(seen.now) \(last)"
        },
        // The lock of a folio and its references are two objects.
        SmallRace(name: "a folio lock, and references beside it") { scene in
            let (frames, order, counts) = (scene.machine.frames, SharedWord(), SharedWord())
            let frame = frames.allocateFolio()!
            scene.thread("locker") {
                frames.lockFolio(frame)
                order.store(order.now * 10 + 1)
                frames.unlockFolio(frame)
            }
            scene.thread("user") {
                frames.get(frame)
                if frames.tryLockFolio(frame) {
                    order.store(order.now * 10 + 2)
                    frames.unlockFolio(frame)
                }
                frames.put(frame)
            }
            scene.thread("judge") { counts.store(frames.refCount(frame)) }
            scene.join()
            frames.put(frame)
            return "\(order.now) \(counts.now)"
        },
        // Who only looks whether a folio is locked sees every owner.
        SmallRace(name: "a folio lock that is looked at without a reference") { scene in
            let (frames, count, seen) = (scene.machine.frames, SharedWord(), SharedWord())
            let frame = frames.allocateFolio()!
            scene.thread("owns") {
                frames.lockFolio(frame)
                count.store(frames.refCount(frame))
                frames.unlockFolio(frame)
                if frames.tryLockFolio(frame) { frames.unlockFolio(frame) }
            }
            scene.thread("looks") {
                for _ in 0..<2 { seen.store(seen.now * 10 + (frames.looksLocked(frame) ? 1 : 2)) }
                if frames.tryGet(frame) { frames.put(frame) }
            }
            scene.join()
            frames.put(frame)
            return "\(count.now) \(seen.now)"
        },
        // Until it is thawed, nobody gets a reference.
        SmallRace(name: "a folio that is frozen and thawed") { scene in
            let (frames, got, mark) = (scene.machine.frames, SharedWord(), SharedWord())
            let frame = frames.allocateFolio()!
            scene.thread("freezes") {
                guard frames.freeze(frame, expected: 1) else { return }
                mark.store(1)
                frames.unfreeze(frame, count: 1)
            }
            scene.thread("looks") {
                guard frames.tryGet(frame) else { return }
                got.store(mark.now + 1)
                frames.put(frame)
            }
            scene.join()
            frames.put(frame)
            return "\(got.now) \(mark.now)"
        },
        // A drop that was not the last one when it was announced may be when it is made.
        SmallRace(name: "two references that go, and one who looks") { scene in
            let (frames, got) = (scene.machine.frames, SharedWord())
            let frame = frames.allocateFolio()!
            frames.get(frame)
            for name in ["a", "b"] { scene.thread(name) { frames.put(frame) } }
            scene.thread("looks") {
                guard frames.tryGet(frame) else { return }
                got.store(1)
                frames.put(frame)
            }
            scene.join()
            return "\(got.now) \(frames.isUsed(frame))"
        },
        // Mappings count themselves in and out; who decides by their number sees each of them.
        SmallRace(name: "mappings, and one who counts them") { scene in
            let (frames, seen) = (scene.machine.frames, SharedWord())
            let frame = frames.allocateFolio()!
            frames.addMapping(frame)
            scene.thread("maps") { frames.addMapping(frame) }
            scene.thread("unmaps") { frames.removeMapping(frame) }
            scene.thread("counts") { seen.store(frames.mappingCount(frame) * 10 + frames.mappingCount(frame)) }
            scene.join()
            frames.removeMapping(frame)
            frames.put(frame)
            return "\(seen.now)"
        },
        // Slots have nothing in common, but one slot has.
        SmallRace(name: "a swap slot that is dropped, cached and counted") { scene in
            let (machine, seen) = (scene.machine, SharedWord())
            let (frames, swap) = (machine.frames, machine.swap)
            let (slot, other) = (swap.allocate()!, swap.allocate()!)
            swap.get(slot)
            let frame = frames.allocateFolio()!
            scene.thread("drops") {
                swap.put(other)
                swap.put(slot)
            }
            scene.thread("caches") {
                guard swap.insertCache(slot, frame) else { return }
                seen.store(swap.count(slot))
                swap.removeCache(slot)
            }
            scene.join()
            swap.put(slot)
            frames.put(frame)
            return "\(seen.now)"
        },
        // An entry of a slot's former life finds the next one.
        SmallRace(name: "a swap slot that is freed and used again") { scene in
            let (machine, seen) = (scene.machine, SharedWord())
            let (frames, swap) = (machine.frames, machine.swap)
            let slot = swap.allocate()!
            let frame = frames.allocateFolio()!
            var again: SwapSlot?
            scene.thread("frees and takes") {
                swap.put(slot)
                again = swap.allocate(caching: frame)
            }
            scene.thread("looks") { seen.store(swap.cachedFrame(slot) == nil ? 1 : 2) }
            scene.join()
            if let again { swap.removeCache(again) }
            frames.put(frame)
            return "\(seen.now) \(again == slot)"
        },
        // What may be forgotten depends on the last frame, and on nothing before.
        SmallRace(name: "device memory that is given back while frames are freed") { scene in
            let machine = scene.machine
            let memory = DeviceMemory(kind: .private, owner: 7, limitBytes: 1 << 24, frames: machine.frames)
            let heads = (0..<2).map { _ in memory.allocate()! }
            heads.forEach(machine.frames.unlockFolio)
            let left = SharedWord()
            memory.retireChunks()
            for (index, head) in heads.enumerated() { scene.thread("frees \(index)") { machine.frames.put(head) } }
            scene.thread("looks") { left.store(memory.removeRetired() == nil ? 1 : 2) }
            scene.join()
            _ = memory.removeRetired()
            memory.kill()
            return "\(left.now)"
        },
        SmallRace(name: "device memory that is retired while a frame is taken") { scene in
            let machine = scene.machine
            let memory = DeviceMemory(kind: .private, owner: 7, limitBytes: 1 << 24, frames: machine.frames)
            let (taken, seen) = (SharedWord(), SharedWord())
            scene.thread("takes") {
                guard let head = memory.allocate() else { return }
                taken.store(1)
                memory.giveBack(head)
            }
            scene.thread("gives back") {
                memory.retireChunks()
                seen.store(memory.removeRetired().map { $0.count + 2 } ?? 1)
            }
            scene.join()
            memory.retireChunks()
            _ = memory.removeRetired()
            memory.kill()
            return "\(taken.now) \(seen.now)"
        },
        // Who waits by giving way goes on as soon as what it looks at has changed, and not only then.
        SmallRace(name: "a loop that gives way until a word changes") { scene in
            let (word, other, seen) = (SharedWord(), SharedWord(), SharedWord())
            scene.thread("waits") {
                while word.load() == 0 { SyncThread.yield() }
                seen.store(word.load() * 10 + other.load())
            }
            scene.thread("writes") {
                other.store(1)
                word.store(1)
                other.store(2)
                word.store(2)
                other.store(3)
            }
            scene.join()
            return "\(seen.now)"
        },
        SmallRace(name: "two loops that give way in turn") { scene in
            let (turn, log) = (SharedWord(), SharedWord())
            for i in 0..<2 {
                scene.thread("\(i)") {
                    while turn.load() != i { SyncThread.yield() }
                    log.store(log.now * 10 + i + 1)
                    turn.store(i + 1)
                }
            }
            scene.join()
            return "\(log.now)"
        },
    ]
}
