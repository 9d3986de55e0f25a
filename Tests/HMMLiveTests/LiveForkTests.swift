import CLive
import Glibc
import HMM
import HMMLive
import Testing

@Suite("Fork with pages away", .enabled(if: canRunLive))
struct LiveForkTests {
    @Test("parent and child both have their data, wherever it was")
    func bothHaveTheirData() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 16)
            live.fill()
            _ = try live.device.prefetch(live.page(2).lowerBound..<live.page(9).upperBound)
            _ = try live.device.atomicAdd(0, at: live.address(12 * 512))
            let child = live.space.fork()
            if child == 0 {
                let isRight = live.firstDifference() == nil
                live.fill(5)
                _exit(isRight && live.firstDifference(5) == nil ? 0 : 1)
            }
            var status: Int32 = 0
            waitpid(child, &status, 0)
            precondition(status == 0, "the child lost data")
            precondition(live.firstDifference() == nil, "the parent lost data")
            live.fill(2)
            precondition(live.firstDifference(2) == nil)
            exit(0)
        }
    }

    @Test("a child's devices go on, on copies")
    func childDevices() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 8)
            live.fill()
            _ = try live.device.prefetch(live.pages)
            let child = live.space.fork()
            if child == 0 {
                let machine = live.space.machine
                let own = try SoftwareDevice.attach(
                    to: live.space, index: 3, memory: SoftwareDeviceMemory(on: machine, .private, sizeBytes: 1 << 20))
                _ = try own.prefetch(live.pages)
                try own.run(over: live.buffer) { elements, _ in
                    for index in elements.indices { elements[index] += 1 }
                }
                let wanted = live.buffer.elements.indices.allSatisfy {
                    live.buffer.elements[$0] == 0x1_0000_0001 + UInt64($0)
                }
                _exit(wanted ? 0 : 1)
            }
            var status: Int32 = 0
            waitpid(child, &status, 0)
            precondition(status == 0, "the child's device works on wrong data")
            precondition(live.firstDifference() == nil, "the parent lost data")
            exit(0)
        }
    }

    @Test("forks beside threads that fault, and devices that take pages")
    func forksUnderLoad() async {
        await #expect(processExitsWith: .success) {
            let live = try LiveFixture(pages: 32)
            live.fill()
            let stop = Counter()
            let toucher = Worker {
                while stop.count == 0 {
                    for page in 0..<32 where live.buffer.elements[page * 512] != 0x1_0000_0000 + UInt64(page * 512) {
                        fatalError("page \(page) is wrong")
                    }
                }
            }
            let mover = Worker { while stop.count == 0 { _ = try? live.device.prefetch(live.pages) } }
            for _ in 0..<40 {
                let child = live.space.fork()
                if child == 0 { _exit(live.firstDifference() == nil ? 0 : 1) }
                var status: Int32 = 0
                waitpid(child, &status, 0)
                precondition(status == 0, "a child lost data")
            }
            stop.add()
            toucher.join()
            mover.join()
            precondition(live.firstDifference() == nil, "the parent lost data")
            exit(0)
        }
    }
}
