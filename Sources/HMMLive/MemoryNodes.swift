import CLive
import Glibc
import HMM

// Device-coherent memory that is a node of the machine: memory without processors, of an accelerator or an expander on
// the bus, which the kernel knows as a NUMA node. A page moves there and keeps its address, so every CPU reaches it,
// and no mirror has to hear of it.

extension LiveSpace {
    /// Which node of memory is the device-coherent memory of this process.
    public enum CoherentNode: Hashable, Sendable {
        /// The first node that has memory and no processors. Without one, pages stay where they are, and are counted.
        case automatic
        /// Pages stay where they are, and are counted.
        case none
        /// The node of this number.
        case node(Int)
    }
}

/// The nodes between which pages of device-coherent memory go.
struct MemoryNodes: Sendable {
    /// What the device has.
    let coherent: Int32
    /// What the processors have, in the order of numbers. Never empty.
    let homes: [Int32]

    /// Nil: there is no such node, or this process may not use it.
    ///
    /// - Throws: `.invalidArgument` when a node was named that cannot be had.
    init?(_ choice: LiveSpace.CoherentNode) throws(HMMError) {
        guard choice != .none else { return nil }
        let withMemory = Self.list("has_memory")
        let withProcessors = Self.list("has_cpu")
        switch choice {
        case .none: return nil
        case .automatic:
            guard let first = withMemory.first(where: { !withProcessors.contains($0) }) else { return nil }
            coherent = first
        case .node(let number):
            guard let node = Int32(exactly: number), withMemory.contains(node) else {
                throw HMMError(.invalidArgument, "there is no node of this number that has memory")
            }
            coherent = node
        }
        let others = withMemory.filter { [coherent] in $0 != coherent && withProcessors.contains($0) }
        homes = others.isEmpty ? [coherent] : others
        guard !isUsable else { return }
        if choice == .automatic { return nil }
        throw HMMError(.invalidArgument, "the node of device-coherent memory is not for this process")
    }

    /// Tried with a page: a set of processors may exclude the node, and a sandbox the call.
    private var isUsable: Bool {
        let bytes = Geometry.pageSizeBytes
        let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let memory, memory != MAP_FAILED else { return false }
        defer { munmap(memory, bytes) }
        memory.storeBytes(of: 1, as: UInt8.self)
        var page = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: memory)))).raw
        var result: UInt8 = 0
        return clive_move_to_node(&page, 1, coherent, &result) >= 0
    }

    /// Numbers of nodes, as "0-1,4".
    private static func list(_ name: String) -> [Int32] {
        let file = open("/sys/devices/system/node/" + name, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return [] }
        defer { close(file) }
        let text = withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
            let length = read(file, buffer.baseAddress, buffer.count)
            return String(decoding: buffer.prefix(max(length, 0)), as: UTF8.self)
        }
        return numbers(text)
    }

    static func numbers(_ list: String) -> [Int32] {
        list.split { $0 == "," || $0 == "\n" }.flatMap { part -> [Int32] in
            let ends = part.split(separator: "-").compactMap { Int32($0) }
            guard let first = ends.first, let last = ends.last, first <= last else { return [] }
            return Array(first...last)
        }
    }

    /// Moves pages to the device's node. `results`, zeros before, are as `clive_move_to_node` has them.
    func take(_ pages: [UInt64], _ results: inout [UInt8]) { Self.move(pages, to: coherent, &results) }

    /// Moves pages that are on the device's node to that of the processor which runs this, as a kernel allocates where
    /// nobody says otherwise, or to another when it is full.
    func bringHome(_ pages: [UInt64], _ results: inout [UInt8]) {
        var left = Self.places(pages).enumerated().filter { $1 == coherent }.map(\.offset)
        let near = clive_this_node()
        for node in homes.filter({ $0 == near }) + homes.filter({ $0 != near }) where !left.isEmpty {
            var moved = [UInt8](repeating: 0, count: left.count)
            Self.move(left.map { pages[$0] }, to: node, &moved)
            for (index, result) in zip(left, moved) { results[index] = result }
            left = left.filter { results[$0] == UInt8(ENOMEM) }
        }
    }

    /// The node of each page, or a negative errno.
    private static func places(_ pages: [UInt64]) -> [Int32] {
        var places = [Int32](repeating: -ENOENT, count: pages.count)
        _ = clive_nodes(pages, pages.count, &places)
        // Older kernels have no answer for a page on which they wait for a touch, to learn who uses it.
        for index in places.indices where places[index] == -ENOENT {
            var seen: UInt8 = 0
            guard clive_look_quickly(pages[index], 1, &seen) == 0, seen & UInt8(CLIVE_PRESENT) != 0,
                clive_populate(pages[index], 1, false) == 0
            else { continue }
            _ = clive_nodes([pages[index]], 1, &places[index])
        }
        return places
    }

    private static func move(_ pages: [UInt64], to node: Int32, _ results: inout [UInt8]) {
        _ = clive_move_to_node(pages, pages.count, node, &results)
    }
}
