import CLive
import Glibc
import HMM
import HMMLive
import Testing

/// Whether this machine lets a process answer its own faults; without that there is nothing to test here.
let canRunLive = LiveSpace.features.open_error == 0

/// Whether mappings that ask for huge pages get some, and tell.
let hasHugePages: Bool = {
    guard LiveSpace.features.pagemap_scan, let file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r") else {
        return false
    }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 100)
    return fgets(&line, 100, file) != nil && strstr(line, "[never]") == nil
}()

/// A process's live space with one software device that has memory of its own.
struct LiveFixture {
    let space: LiveSpace
    let device: SoftwareDevice
    let buffer: SharedBuffer<UInt64>

    /// Words of a page.
    static let perPage = Geometry.wordsPerPage

    init(
        pages: Int = 8, deviceBytes: Int = 16 << 20, usedBySystemCalls: Bool = false, hugePages: Bool = false,
        index: Int = Int.random(in: 1_000..<1_000_000)
    ) throws(HMMError) {
        space = try LiveSpace.shared
        buffer = try SharedBuffer(
            count: pages * Self.perPage, usedBySystemCalls: usedBySystemCalls, hugePages: hugePages)
        device = try SoftwareDevice.attach(
            to: space, index: index, memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: deviceBytes))
    }

    var pages: PageRange { buffer.pages }
    func page(_ index: Int) -> PageRange {
        pages.lowerBound.advanced(by: index)..<pages.lowerBound.advanced(by: index + 1)
    }

    /// Every word of every page gets a value of its own.
    func fill(_ seed: UInt64 = 1) {
        for index in buffer.elements.indices { buffer.elements[index] = seed &* 0x1_0000_0000 &+ UInt64(index) }
    }

    /// The first word that is not what `fill` wrote, or nil.
    func firstDifference(_ seed: UInt64 = 1) -> Int? {
        buffer.elements.indices.first { buffer.elements[$0] != seed &* 0x1_0000_0000 &+ UInt64($0) }
    }

    var isDeviceEmpty: Bool { device.memory!.usedFrames == 0 }

    func address(_ word: Int) -> VirtualAddress {
        VirtualAddress(UInt64(UInt(bitPattern: buffer.elements.baseAddress! + word)))
    }
}
