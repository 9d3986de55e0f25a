import Testing

@testable import HMM

/// Regions are kept for the whole process, and other tests make and drop mirrors meanwhile: so nothing here asks which
/// region comes back, only what is in it.
@Suite struct DirectoryRegionTests {
    private static let bytes = 7 << 20

    @Test func aRegionThatComesBackIsZero() {
        for value in 1...3 {
            let region = DirectoryRegion.take(Self.bytes)
            let words = region.assumingMemoryBound(to: Int.self)
            for index in [0, 1, 511, 512] {
                #expect(words[index] == 0)
                words[index] = value
            }
            for index in [1, 511, 512] { words[index] = 0 }
            DirectoryRegion.giveBack(region, Self.bytes, isZero: true)
        }
    }

    @Test func aMirrorThatWasTornDownLeavesNothingToTheNext() throws {
        for round in 0..<20 {
            let mirror = RadixMirror()
            for page in [0, 600, 1 << 20, 1 << 30] {
                let first = PageNumber(UInt64(page + round))
                #expect(mirror.lookup(first) == nil)
                try mirror.commit(
                    MirrorRun(pages: first..<first.advanced(by: 3), firstFrame: FrameNumber(9), isWritable: true))
            }
            #expect(mirror.statistics.mappedPages == 12)
            #expect(mirror.checkInvariants() == [])
            // Every other one is dropped as it is: its memory must not come back.
            if round % 2 == 0 { mirror.tearDown() }
        }
    }
}
