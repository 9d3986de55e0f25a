import Glibc
import Synchronization

/// The memory of directory pools: address space reserved from the host, all zero.
///
/// Small regions that come back are kept for the next mirrors: an explorer makes and drops a mirror for every schedule,
/// and the host's part of that (reserving, first touches, giving back) is many times all the rest.
enum DirectoryRegion {
    /// The most directories of a region that is kept: 256 KiB of memory.
    static let keptDirectories = 64
    /// Each is 0, or the address of a region that nobody uses and that is all zero but for its size in its first word.
    /// Taken and put by one atomic step, so that threads with different schedulers need no lock.
    private static let first = Atomic<UInt>(0)
    private static let second = Atomic<UInt>(0)

    /// A region of so many bytes, all zero.
    static func take(_ lengthBytes: Int) -> UnsafeMutableRawPointer {
        if let kept = take(lengthBytes, from: first) ?? take(lengthBytes, from: second) { return kept }
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let region = mmap(nil, lengthBytes, PROT_READ | PROT_WRITE, flags, -1, 0), region != MAP_FAILED else {
            fatalError("no address space for the directories of a mirror")
        }
        return region
    }

    /// Takes a region back.
    ///
    /// - Parameter isZero: it is small, and nothing of it would have to be cleared.
    static func giveBack(_ region: UnsafeMutableRawPointer, _ lengthBytes: Int, isZero: Bool) {
        if isZero {
            region.storeBytes(of: lengthBytes, as: Int.self)
            if put(region, into: first) || put(region, into: second) { return }
        }
        munmap(region, lengthBytes)
    }

    private static func take(_ lengthBytes: Int, from place: borrowing Atomic<UInt>) -> UnsafeMutableRawPointer? {
        let kept = place.exchange(0, ordering: .acquiring)
        guard let region = UnsafeMutableRawPointer(bitPattern: kept) else { return nil }
        let keptBytes = region.load(as: Int.self)
        if keptBytes == lengthBytes {
            region.storeBytes(of: 0, as: Int.self)
            return region
        }
        if !put(region, into: place) { munmap(region, keptBytes) }
        return nil
    }

    private static func put(_ region: UnsafeMutableRawPointer, into place: borrowing Atomic<UInt>) -> Bool {
        place.compareExchange(expected: 0, desired: UInt(bitPattern: region), ordering: .releasing).exchanged
    }
}
