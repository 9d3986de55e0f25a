import CLivePlay
import Glibc
import HMM
import HMMLive
import Testing

@Suite("Private mappings of files", .enabled(if: canRunLive))
struct PrivateFileTests {
    /// The page cache answers a CPU before userfaultfd is asked: it would get the page of the file instead of what it
    /// wrote, if that had gone to a device.
    @Test("pages that were written in a private mapping of a file are the device's where they are")
    func writtenPagesStay() throws {
        let live = try LiveFixture(pages: 1)
        let size = 4 * Geometry.pageSizeBytes
        let file = clive_play_file(size)
        try #require(file >= 0)
        defer { close(file) }
        let inFile = [UInt8](repeating: 3, count: size)
        try #require(pwrite(file, inFile, size, 0) == size)
        let address = try #require(mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0))
        let bytes = UnsafeMutableBufferPointer(start: address.assumingMemoryBound(to: UInt8.self), count: size)
        for index in 0..<2 * Geometry.pageSizeBytes { bytes[index] = 9 }
        let first = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: address))))
        let summary = try live.device.prefetch(first..<first.advanced(by: 4))
        #expect(summary.moved == 2)
        #expect(live.device.memory!.usedFrames == 2)
        #expect(bytes[0] == 9 && bytes[2 * Geometry.pageSizeBytes - 1] == 9 && bytes[2 * Geometry.pageSizeBytes] == 3)
        #expect(live.space.unmap(first..<first.advanced(by: 4)) == 0)
        #expect(live.isDeviceEmpty)
        live.device.detach()
    }
}
