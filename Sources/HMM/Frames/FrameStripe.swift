/// Single frames that threads of one stripe freed and will use again: a stack, so that a frame which was just in the
/// cache is the next to be used.
///
/// Guarded by the lock that lies before it (`FrameStripePlace`).
struct FrameStripe: ~Copyable {
    /// So many that the struct fills a page with its lock, and stripes share no cache line.
    static let capacity = 1022

    private(set) var count: UInt32 = 0
    private var stack = InlineArray<1022, UInt32>(repeating: 0)

    /// Takes up to `wanted` frames, the last freed one first.
    mutating func take(_ wanted: Int, into frames: UnsafeMutablePointer<FrameNumber>) -> Int {
        let taken = min(wanted, Int(count))
        for i in 0..<taken { frames[i] = FrameNumber(stack[Int(count) - 1 - i]) }
        count -= UInt32(taken)
        return taken
    }

    /// Adds a frame. False when there is no room.
    @inline(__always)
    mutating func put(_ frame: FrameNumber) -> Bool {
        guard count < Self.capacity else { return false }
        stack[Int(count)] = frame.raw
        count += 1
        return true
    }

    /// Forgets all frames.
    mutating func empty() { count = 0 }

    /// Takes the frames that have lain here longest, half of what there is room for.
    mutating func takeOldest(into frames: UnsafeMutablePointer<FrameNumber>) -> Int {
        let taken = min(Int(count), Self.capacity / 2)
        for i in 0..<taken { frames[i] = FrameNumber(stack[i]) }
        for i in taken..<Int(count) { stack[i - taken] = stack[i] }
        count -= UInt32(taken)
        return taken
    }
}

/// Where a stripe and its lock lie. They are no structure together: a change of one member of a structure counts as an
/// access to all of it, and others try the lock meanwhile.
struct FrameStripePlace {
    static let bytes = 4096

    let lock: UnsafeMutablePointer<SpinLock>
    let frames: UnsafeMutablePointer<FrameStripe>

    /// The place at the start of `bytes` bytes.
    @inline(__always)
    init(at base: UnsafeMutableRawPointer) {
        // SAFETY: `initialize` has bound both.
        lock = base.assumingMemoryBound(to: SpinLock.self)
        frames = (base + MemoryLayout<SpinLock>.stride).assumingMemoryBound(to: FrameStripe.self)
    }

    static func initialize(_ base: UnsafeMutableRawPointer, _ lockClass: LockClass) {
        precondition(MemoryLayout<SpinLock>.stride + MemoryLayout<FrameStripe>.size <= bytes, "a stripe fills a page")
        base.bindMemory(to: SpinLock.self, capacity: 1).initialize(to: SpinLock(lockClass))
        let frames = base + MemoryLayout<SpinLock>.stride
        frames.bindMemory(to: FrameStripe.self, capacity: 1).initialize(to: FrameStripe())
    }
}
