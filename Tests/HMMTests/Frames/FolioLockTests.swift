import Synchronization
import Testing

@testable import HMM

@Suite("Folio lock")
struct FolioLockTests {
    @Test func excludesAndHandsOverInOrder() throws {
        let machine = try Machine()
        let frame = try #require(machine.frames.allocateFolio())
        nonisolated(unsafe) let words = machine.frames.words(of: frame)
        words[0].store(0, ordering: .relaxed)
        let threads = (0..<4).map { i in
            SyncThread.spawn(name: "locker \(i)") {
                for _ in 0..<2000 {
                    machine.frames.lockFolio(frame)
                    let seen = words[0].load(ordering: .relaxed)
                    words[0].store(seen + 1, ordering: .relaxed)
                    machine.frames.unlockFolio(frame)
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(words[0].load(ordering: .relaxed) == 8000)
        #expect(!machine.frames.isLocked(frame))
        machine.frames.put(frame)
    }

    @Test func tryLockDoesNotWait() throws {
        let machine = try Machine()
        let frame = try #require(machine.frames.allocateFolio())
        #expect(machine.frames.tryLockFolio(frame))
        #expect(!machine.frames.tryLockFolio(frame))
        machine.frames.unlockFolio(frame)
        #expect(machine.frames.tryLockFolio(frame))
        machine.frames.unlockFolio(frame)
        machine.frames.put(frame)
    }

    @Test func watchersWakeWithoutTheLock() throws {
        let machine = try Machine()
        let frame = try #require(machine.frames.allocateFolio())
        let slot = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: 1)
        slot.initialize(to: Atomic(5))
        defer { slot.deallocate() }
        nonisolated(unsafe) let entry = slot
        machine.frames.lockFolio(frame)
        let watchers = (0..<3).map { i in
            SyncThread.spawn(name: "watcher \(i)") { machine.frames.waitForUnlock(frame, while: entry, holds: 5) }
        }
        machine.frames.unlockFolio(frame)
        for watcher in watchers { watcher.join() }
        // An entry that changed already is not waited for.
        machine.frames.lockFolio(frame)
        machine.frames.waitForUnlock(frame, while: entry, holds: 6)
        machine.frames.unlockFolio(frame)
        machine.frames.put(frame)
    }
}
