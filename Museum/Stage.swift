import HMM
import HMMExplorer

/// What most exhibits play on.
enum Place {
    /// 2 MiB aligned, like the addresses that mmap hands out for large mappings.
    static let base = PageNumber(0x4_0000)

    static func pages(_ count: Int, from first: PageNumber = base) -> PageRange { first..<first.advanced(by: count) }
}

extension Scene {
    /// An address space with anonymous memory at `Place.base`, its pages written with 1, 2, … by `cpu`.
    func makeSpace(pages count: Int) throws -> (space: AddressSpace, cpu: CPU) {
        let space = try machine.makeAddressSpace()
        try space.map(Place.pages(count), protection: [.read, .write], kind: .anonymous())
        let cpu = space.makeCPU()
        for index in 0..<count { try cpu.store(UInt64(index) + 1, at: Place.base.advanced(by: index).address) }
        return (space, cpu)
    }
}

extension AddressSpace {
    /// Whether the page is exclusive to some device.
    func isExclusive(_ page: PageNumber) -> Bool { leaf(page)?.0.softLeaf?.kind == .deviceExclusive }

    /// The frame that an entry names which a mirror may repeat: present, private or exclusive.
    func mappedFrame(_ page: PageNumber) -> FrameNumber? {
        guard let (entry, level) = leaf(page) else { return nil }
        let kind = entry.softLeaf?.kind
        guard entry.isPresent || kind == .devicePrivate || kind == .deviceExclusive else { return nil }
        return entry.frame + (level == .pmd ? page.alignedDown(order: Geometry.pmdOrder).distance(to: page) : 0)
    }
}

/// What a thread does for so many steps with something of its own, where it matters how long an operation takes: those
/// who get nowhere do so because they run in step.
func work(on own: AnyObject, steps: Int) {
    for _ in 0..<steps { schedulingPoint(.load, on: UInt(bitPattern: Unmanaged.passUnretained(own).toOpaque())) }
}

/// Room for one page that a device reads or writes.
final class PageBuffer {
    let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: Geometry.wordsPerPage)

    init() { words.initialize(repeating: 0) }

    deinit { words.deallocate() }
}
