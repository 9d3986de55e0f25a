import Testing

@testable import HMM

/// Aim: faults are merged, served in blocks, and each is completed once.
@Suite("Fault queue")
struct FaultQueueTests {
    /// A device without a machine: mappings and rights are written down by the test.
    final class Delegate: FaultQueueDelegate, @unchecked Sendable {
        var mappings: [DeviceMapping] = []
        var rights: [PageNumber: AccessKind] = [:]
        var blocks: [String] = []
        var resumed: [UInt64] = []
        var cancelled: [(UInt64, HMMError)] = []
        /// Faults that bring nothing, as if somebody took the pages away at once.
        var barren = 0

        func mapping(containing page: PageNumber) -> DeviceMapping? { mappings.first { $0.pages.contains(page) } }
        func permits(_ page: PageNumber, _ access: AccessKind) -> Bool { rights[page].map { $0 >= access } ?? false }
        func fault(_ block: PageRange, _ requests: [(page: PageNumber, access: AccessKind)]) throws(HMMError) {
            blocks.append("\(block.lowerBound.raw)+\(block.pageCount)")
            if barren > 0 {
                barren -= 1
                return
            }
            for request in requests {
                guard let mapping = mapping(containing: request.page) else { throw HMMError(.badAddress) }
                if request.access > .read, !mapping.protection.contains(.write) { throw HMMError(.notPermitted) }
                rights[request.page] = max(request.access, rights[request.page] ?? .read)
            }
        }
        func resume(_ request: DeviceFaultRequest) { resumed.append(request.client) }
        func cancel(_ request: DeviceFaultRequest, _ error: HMMError) { cancelled.append((request.client, error)) }
    }

    let delegate = Delegate()

    private func request(_ page: UInt64, _ access: AccessKind, _ client: UInt64) -> DeviceFaultRequest {
        DeviceFaultRequest(page: PageNumber(page), access: access, client: client)
    }

    @Test("equal pages are merged, with the strongest access first and all clients kept")
    func merging() {
        let batch = FaultBatch([
            request(9, .read, 1), request(3, .read, 2), request(9, .write, 3), request(3, .read, 4),
        ])
        #expect(batch.entries.map(\.page.raw) == [3, 9])
        #expect(batch.entries[1].access == .write && batch.entries[1].requests.map(\.client) == [3, 1])
        #expect(batch.entries[0].requests.map(\.client) == [2, 4])
    }

    @Test("blocks are the largest that the mapping contains and the faults justify")
    func blocks() {
        func block(_ pages: [UInt64], in mapping: PageRange, mirrored: Set<UInt64> = []) -> String {
            let batch = FaultBatch(pages.map { request($0, .read, $0) })
            let block = batch.firstBlock(in: mapping, .init()) { mirrored.contains($0.raw) }
            return "\(block.lowerBound.raw)+\(block.pageCount)"
        }
        #expect(block([515], in: span(0, 4096)) == "515+1", "alone")
        #expect(block([515, 527], in: span(0, 4096)) == "512+16")
        #expect(block([515, 528], in: span(0, 4096)) == "515+1", "the other one lies in another block")
        #expect(block([515, 517], in: span(513, 4096)) == "515+1", "the block would leave the mapping")
        #expect(block([515], in: span(0, 4096), mirrored: [514]) == "512+16", "its neighbour is there")
        #expect(block((512..<544).map { $0 }, in: span(0, 4096)) == "512+512")
        #expect(block((512..<544).map { $0 }, in: span(0, 1023)) == "512+16")
    }

    @Test("INV-FQ-1: everybody is completed once, with rights or with one error")
    func completion() {
        delegate.mappings = [
            DeviceMapping(pages: span(0, 16), protection: .readWrite),
            DeviceMapping(pages: span(16, 32), protection: .read),
        ]
        let queue = FaultQueue(delegate)
        let wanted = [
            request(1, .read, 1), request(2, .write, 2), request(20, .read, 3), request(20, .write, 4),
            request(21, .read, 5), request(40, .read, 6), request(2, .read, 7),
        ]
        for request in wanted { #expect(queue.enqueue(request)) }
        #expect(queue.drain() == 7 && queue.count == 0)
        #expect(delegate.resumed.sorted() == [1, 2, 3, 5, 7])
        #expect(delegate.cancelled.map(\.0).sorted() == [4, 6])
        #expect(delegate.cancelled.first { $0.0 == 4 }?.1 == HMMError(.notPermitted))
        #expect(delegate.cancelled.first { $0.0 == 6 }?.1 == HMMError(.badAddress))
    }

    @Test("spurious faults complete without a walk")
    func spurious() {
        delegate.rights[PageNumber(5)] = .write
        let queue = FaultQueue(delegate)
        #expect(queue.enqueue(request(5, .read, 1)))
        #expect(queue.drain() == 1)
        #expect(delegate.blocks.isEmpty && delegate.resumed == [1])
    }

    @Test("what was not brought stays queued in the order of its age, and nothing is dropped")
    func retry() {
        delegate.mappings = [DeviceMapping(pages: span(0, 64), protection: .readWrite)]
        var coalescing = FaultCoalescing()
        coalescing.batchLimit = 2
        let queue = FaultQueue(delegate, coalescing, capacity: 3)
        #expect(queue.enqueue(request(9, .read, 1)) && queue.enqueue(request(3, .read, 2)))
        #expect(queue.enqueue(request(3, .read, 2)))
        #expect(!queue.enqueue(request(4, .read, 4)), "the hardware replays")
        delegate.barren = 1
        #expect(queue.drain() == 0 && queue.count == 3)
        #expect(queue.drain() == 2)
        #expect(delegate.resumed.sorted() == [1, 2])
        #expect(queue.drain() == 1)
        #expect(delegate.resumed.sorted() == [1, 2, 2], "equal requests are told apart")
    }
}
