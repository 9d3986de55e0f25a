import Synchronization
import Testing

@testable import HMM

/// Races on threads of the system, each for a bounded number of operations.
@Suite("Migration: races", .serialized)
struct MigrationRaceTests {
    /// Two devices and two CPUs that all want one range. Nobody may starve: each side completes its operations.
    @Test("R1, R2: devices and CPUs that want the same pages make progress", arguments: [1, 16])
    func everybodyMakesProgress(window: Int) throws {
        let f = try MigrationFixture(devicePages: 256, window: window)
        try f.map(0..<24)
        try f.base.write(0..<24, 0)
        let space = f.space
        let pages = f.pages(0..<24)
        let rounds = 300
        let moved = [Atomic64(), Atomic64()]
        var threads: [SyncThread] = []
        for (number, device) in [f.first, f.second].enumerated() {
            let other = number == 0 ? f.second : f.first
            let count = moved[number]
            threads.append(
                SyncThread.spawn(name: "device") {
                    for _ in 0..<rounds {
                        let summary = try? space.prefetch(
                            pages, to: device.memory, from: [other.memory], owner: device.owner)
                        count.value.add(summary?.moved ?? 0, ordering: .relaxed)
                    }
                })
        }
        let sums = [Atomic64(), Atomic64()]
        for number in 0..<2 {
            let sum = sums[number]
            threads.append(
                SyncThread.spawn(name: "cpu") {
                    let cpu = space.makeCPU()
                    for round in 0..<rounds {
                        let page = pages.lowerBound.advanced(by: round % 24)
                        if (try? cpu.fetchAdd(1, at: page.address)) != nil { sum.value.add(1, ordering: .relaxed) }
                    }
                    space.removeCPU(cpu)
                })
        }
        for thread in threads { thread.join() }
        #expect(sums.allSatisfy { $0.value.load(ordering: .relaxed) == rounds })
        f.checkInvariants()
        var total: UInt64 = 0
        for page in pages { total += try f.base.cpu.load(page.address) }
        #expect(total == UInt64(2 * rounds))
        f.finish()
    }

    @Test("R3, R6, R14: what changes mappings, beside a device that moves their pages")
    func changesDuringMigration() throws {
        let f = try MigrationFixture(devicePages: 2048)
        try f.map(0..<1024, huge: true)
        try f.base.write(0..<1024, 1)
        let (space, machine, memory) = (f.space, f.machine, f.first.memory)
        let owner = f.first.owner
        let all = f.pages(0..<1024)
        let isOver = Atomic64()
        let device = SyncThread.spawn(name: "device") {
            while isOver.value.load(ordering: .relaxed) == 0 {
                _ = try? space.prefetch(all, to: memory, owner: owner)
                _ = try? space.evict(all, from: memory, owner: owner)
            }
        }
        let evictor = SyncThread.spawn(name: "evictor") {
            while isOver.value.load(ordering: .relaxed) == 0 {
                _ = machine.evictLeastRecentlyUsed(of: memory, count: 100)
                SyncThread.yield()
            }
        }
        for round in 0..<60 {
            let first = round * 17 % 900
            switch round % 6 {
            case 0: try space.advise(f.pages(first..<first + 20), .dontneed)
            case 1: try space.protect(f.pages(first..<first + 40), .read)
            case 2: try space.protect(all, .readWrite)
            case 3: try space.fork().exit()
            case 4: try space.advise(f.pages(first..<first + 20), .pageout)
            default: try f.base.write(first..<first + 60, 1)
            }
        }
        isOver.value.store(1, ordering: .relaxed)
        device.join()
        evictor.join()
        f.checkInvariants()
        for page in all {
            let word = try f.base.cpu.withPage(page, for: .read) { $0[3].load(ordering: .relaxed) }
            #expect(word == 0 || word == 1 &+ page.raw)
        }
        f.finish()
    }

    @Test("R13: a child copies a page while its parent's device moves it")
    func copiesBesideMigration() throws {
        let f = try MigrationFixture()
        try f.map(0..<16)
        try f.base.write(0..<16, 1)
        for _ in 0..<30 {
            let child = try f.space.fork()
            let pages = f.pages(0..<16)
            let writer = SyncThread.spawn(name: "child") {
                let cpu = child.makeCPU()
                for page in pages { try? cpu.store(9, at: page.address) }
                child.removeCPU(cpu)
            }
            try f.send(0..<16)
            writer.join()
            let cpu = child.makeCPU()
            for page in pages {
                #expect(try cpu.load(page.address) == 9)
                #expect(try cpu.withPage(page, for: .read) { $0[3].load(ordering: .relaxed) } == 1 &+ page.raw)
            }
            child.removeCPU(cpu)
            child.exit()
            try f.base.expect(0..<16, 1)
        }
        f.finish()
    }
}

/// A counter that threads share.
final class Atomic64: Sendable {
    let value = Atomic<Int>(0)
}
