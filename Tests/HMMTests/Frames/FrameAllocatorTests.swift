import Synchronization
import Testing

@testable import HMM

@Suite("Frame allocator")
struct FrameAllocatorTests {
    @Test("INV-AS-1: every frame is free or used once", arguments: [1, 2, 3] as [UInt64])
    func everyFrameOnce(_ seed: UInt64) throws {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = 64 << 20
        let frames = try Machine(configuration).frames
        var random = SeededRandom(seed)
        var held: [(FrameNumber, Int)] = []
        var owner: [UInt32: Int] = [:]
        for step in 0..<20_000 {
            if random.below(100) < 55 {
                let order = [0, 0, 0, 0, 1, 3, 9][random.below(7)]
                guard let head = frames.allocateFolio(order: order) else { continue }
                #expect(head.raw & UInt32((1 << order) - 1) == 0, "seed \(seed): not aligned")
                for i in 0..<(1 << order) {
                    #expect(owner.updateValue(step, forKey: (head + i).raw) == nil, "seed \(seed): handed out twice")
                }
                held.append((head, order))
            } else if !held.isEmpty {
                let (head, order) = held.remove(at: random.below(held.count))
                for i in 0..<(1 << order) { owner[(head + i).raw] = nil }
                frames.put(head)
            }
        }
        #expect(frames.system.usedFrames == owner.count)
        #expect(frames.system.countFree() + owner.count == frames.system.totalFrames)
        for (head, _) in held { frames.put(head) }
        // What was freed joins to blocks again: all of memory can be had in blocks of 2 MiB.
        var blocks: [FrameNumber] = []
        while let head = frames.allocateFolio(order: 9) { blocks.append(head) }
        #expect(blocks.count == frames.system.totalFrames / 512)
        for head in blocks { frames.put(head) }
        #expect(frames.system.usedFrames == 0)
    }

    @Test func memoryRunsOutAndComesBack() throws {
        var configuration = MachineConfiguration()
        configuration.systemMemoryBytes = 4 << 20
        let frames = try Machine(configuration).frames
        var held: [FrameNumber] = []
        while let frame = frames.allocateFolio() { held.append(frame) }
        #expect(held.count == 1024)
        #expect(frames.allocateFolio(order: 9) == nil)
        for frame in held { frames.put(frame) }
        #expect(frames.system.usedFrames == 0)
    }

    @Test func contiguousGibibyte() throws {
        let frames = try Machine().frames
        let small = try #require(frames.allocateFolio())
        let block = try #require(frames.system.allocateBlock(order: Geometry.pudOrder))
        #expect(block.raw % (1 << 18) == 0)
        frames.system.free(block, order: Geometry.pudOrder)
        frames.put(small)
        #expect(frames.system.usedFrames == 0)
        #expect(frames.system.countFree() == frames.system.totalFrames)
    }

    @Test func theNthAllocationFails() throws {
        let machine = try Machine()
        machine.faultInjector.failAllocation(3)
        let first = machine.frames.allocateFolio()
        let second = machine.frames.allocateFolio()
        #expect(first != nil && second != nil)
        #expect(machine.frames.allocateFolio() == nil)
        let fourth = machine.frames.allocateFolio()
        #expect(fourth != nil)
        #expect(machine.faultInjector.disarm() == 1)
        for frame in [first, second, fourth] { machine.frames.put(frame!) }
    }

    /// More than the process keeps is given back; what was given back reads as zero, which no caller may rely on.
    @Test func freedBlocksGoBackToTheHost() throws {
        let frames = try Machine().frames
        var blocks: [FrameNumber] = []
        for _ in 0..<260 { blocks.append(try #require(frames.allocateFolio(order: 9))) }
        for head in blocks { frames.words(of: head)[0].store(7, ordering: .relaxed) }
        for head in blocks { frames.put(head) }
        let kept = blocks.count { frames.words(of: $0)[0].load(ordering: .relaxed) == 7 }
        #expect(kept == 256)
    }
}
