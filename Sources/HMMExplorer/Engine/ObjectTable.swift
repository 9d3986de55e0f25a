/// Numbers for the objects of a schedule, in the order of their appearance, and who holds those that are locks.
///
/// Open addressing over addresses. Starting a schedule takes no time: entries carry the number of the schedule in which
/// they were made. Touched by the scheduler's thread only.
struct ObjectTable: ~Copyable {
    private struct Entry {
        var address: UInt = 0
        var generation: UInt32 = 0
        var id: Int32 = 0
    }

    struct Object {
        var address: UInt
        /// The thread that holds the lock exclusively, or -1.
        var owner: Int32
        /// The threads that share the lock.
        var sharers: ThreadSet
    }

    private var entries: UnsafeMutablePointer<Entry>
    private var capacity: Int
    private var generation: UInt32 = 1
    private(set) var objects: UnsafeMutablePointer<Object>
    private(set) var count = 0

    init(capacity: Int = 1 << 10) {
        self.capacity = capacity
        entries = .allocate(capacity: capacity)
        entries.initialize(repeating: Entry(), count: capacity)
        objects = .allocate(capacity: capacity)
    }

    deinit {
        entries.deallocate()
        objects.deallocate()
    }

    /// Forgets all objects.
    mutating func reset() {
        count = 0
        generation &+= 1
    }

    /// The number of the object at `address`.
    @inline(__always)
    mutating func id(_ address: UInt) -> Int32 {
        var slot = Self.hash(address) & (capacity - 1)
        while entries[slot].generation == generation {
            if entries[slot].address == address { return entries[slot].id }
            slot = (slot + 1) & (capacity - 1)
        }
        return insert(address, slot)
    }

    @inline(__always)
    private static func hash(_ address: UInt) -> Int {
        Int(truncatingIfNeeded: (UInt64(address) &* 0x9E37_79B9_7F4A_7C15) &>> 40)
    }

    @inline(never)
    private mutating func insert(_ address: UInt, _ slot: Int) -> Int32 {
        if count * 2 >= capacity {
            grow()
            return id(address)
        }
        entries[slot] = Entry(address: address, generation: generation, id: Int32(count))
        objects[count] = Object(address: address, owner: -1, sharers: 0)
        count += 1
        return Int32(count - 1)
    }

    private mutating func grow() {
        let old = objects
        let oldCount = count
        entries.deallocate()
        capacity *= 2
        entries = .allocate(capacity: capacity)
        entries.initialize(repeating: Entry(), count: capacity)
        objects = .allocate(capacity: capacity)
        generation = 1
        count = 0
        for index in 0..<oldCount {
            _ = id(old[index].address)
            objects[index] = old[index]
        }
        old.deallocate()
    }
}
