/// Ranges of pages with a payload, found by overlap: an AVL tree by (first page, order of insertion), where every node
/// knows the largest end below it.
///
/// Nodes live in one array and name each other by index, so that walking it counts no references. Iteration keeps no
/// place inside the tree: a caller asks for the next overlapping range behind a key, in logarithmic time.
struct IntervalTree<Payload: AnyObject> {
    /// The order of the tree. Identities are unique; equal ranges are ordered by them.
    struct Key: Hashable, Comparable {
        var start: PageNumber
        var identity: UInt64
        static func < (a: Self, b: Self) -> Bool {
            a.start != b.start ? a.start < b.start : a.identity < b.identity
        }
    }

    private struct Node {
        var key: Key
        var end: PageNumber
        var payload: Payload?
        /// The largest `end` in the subtree.
        var maxEnd: PageNumber
        var left: Int32 = -1
        var right: Int32 = -1
        var height: Int8 = 1
    }

    private var nodes: ContiguousArray<Node> = []
    private var freeNodes: ContiguousArray<Int32> = []
    private var root: Int32 = -1
    private(set) var count = 0

    var isEmpty: Bool { root < 0 }

    mutating func insert(_ payload: Payload, pages: PageRange, identity: UInt64) {
        let node = Node(
            key: Key(start: pages.lowerBound, identity: identity), end: pages.upperBound, payload: payload,
            maxEnd: pages.upperBound)
        let index: Int32
        if let free = freeNodes.popLast() {
            index = free
            nodes[Int(free)] = node
        } else {
            index = Int32(nodes.count)
            nodes.append(node)
        }
        root = inserting(index, below: root)
        count += 1
    }

    /// Takes the entry with these bounds and identity out, and returns its payload; nil when there is none.
    mutating func remove(pages: PageRange, identity: UInt64) -> Payload? {
        var removed: Int32 = -1
        root = removing(Key(start: pages.lowerBound, identity: identity), below: root, removed: &removed)
        guard removed >= 0 else { return nil }
        let payload = nodes[Int(removed)].payload
        nodes[Int(removed)].payload = nil
        freeNodes.append(removed)
        count -= 1
        return payload
    }

    /// The first entry, in key order, that overlaps `pages` and lies behind `key`.
    func first(overlapping pages: PageRange, after key: Key? = nil) -> (key: Key, payload: Payload)? {
        let index = search(pages, after: key, below: root)
        guard index >= 0, let payload = nodes[Int(index)].payload else { return nil }
        return (nodes[Int(index)].key, payload)
    }

    func overlaps(_ pages: PageRange) -> Bool { search(pages, after: nil, below: root) >= 0 }

    // MARK: - The tree

    private func search(_ pages: PageRange, after key: Key?, below index: Int32) -> Int32 {
        guard index >= 0, nodes[Int(index)].maxEnd > pages.lowerBound else { return -1 }
        let nodeKey = nodes[Int(index)].key
        let isBehind = key.map { $0 < nodeKey } ?? true
        if isBehind {
            let found = search(pages, after: key, below: nodes[Int(index)].left)
            if found >= 0 { return found }
        }
        guard nodeKey.start < pages.upperBound else { return -1 }
        if isBehind, nodes[Int(index)].end > pages.lowerBound { return index }
        return search(pages, after: key, below: nodes[Int(index)].right)
    }

    private mutating func inserting(_ new: Int32, below index: Int32) -> Int32 {
        guard index >= 0 else { return new }
        let newKey = nodes[Int(new)].key
        precondition(newKey != nodes[Int(index)].key, "an interval was inserted twice")
        if newKey < nodes[Int(index)].key {
            let child = inserting(new, below: nodes[Int(index)].left)
            nodes[Int(index)].left = child
        } else {
            let child = inserting(new, below: nodes[Int(index)].right)
            nodes[Int(index)].right = child
        }
        return balancing(index)
    }

    private mutating func removing(_ key: Key, below index: Int32, removed: inout Int32) -> Int32 {
        guard index >= 0 else { return -1 }
        let node = nodes[Int(index)]
        if key < node.key {
            nodes[Int(index)].left = removing(key, below: node.left, removed: &removed)
        } else if node.key < key {
            nodes[Int(index)].right = removing(key, below: node.right, removed: &removed)
        } else {
            removed = index
            guard node.left >= 0 else { return node.right }
            guard node.right >= 0 else { return node.left }
            // Two children: the successor takes the node's place, with the children that remain.
            var successor: Int32 = -1
            let right = removingFirst(below: node.right, first: &successor)
            nodes[Int(successor)].left = node.left
            nodes[Int(successor)].right = right
            return balancing(successor)
        }
        return balancing(index)
    }

    private mutating func removingFirst(below index: Int32, first: inout Int32) -> Int32 {
        guard nodes[Int(index)].left >= 0 else {
            first = index
            return nodes[Int(index)].right
        }
        let child = removingFirst(below: nodes[Int(index)].left, first: &first)
        nodes[Int(index)].left = child
        return balancing(index)
    }

    private func height(_ index: Int32) -> Int8 { index < 0 ? 0 : nodes[Int(index)].height }

    private mutating func refresh(_ index: Int32) {
        let (left, right) = (nodes[Int(index)].left, nodes[Int(index)].right)
        var maxEnd = nodes[Int(index)].end
        if left >= 0 { maxEnd = max(maxEnd, nodes[Int(left)].maxEnd) }
        if right >= 0 { maxEnd = max(maxEnd, nodes[Int(right)].maxEnd) }
        nodes[Int(index)].maxEnd = maxEnd
        nodes[Int(index)].height = 1 + max(height(left), height(right))
    }

    private mutating func balancing(_ index: Int32) -> Int32 {
        refresh(index)
        let (left, right) = (nodes[Int(index)].left, nodes[Int(index)].right)
        let tilt = Int(height(left)) - Int(height(right))
        if tilt > 1 {
            if height(nodes[Int(left)].left) < height(nodes[Int(left)].right) {
                nodes[Int(index)].left = rotatingLeft(left)
            }
            return rotatingRight(index)
        }
        if tilt < -1 {
            if height(nodes[Int(right)].right) < height(nodes[Int(right)].left) {
                nodes[Int(index)].right = rotatingRight(right)
            }
            return rotatingLeft(index)
        }
        return index
    }

    private mutating func rotatingRight(_ index: Int32) -> Int32 {
        let top = nodes[Int(index)].left
        nodes[Int(index)].left = nodes[Int(top)].right
        nodes[Int(top)].right = index
        refresh(index)
        refresh(top)
        return top
    }

    private mutating func rotatingLeft(_ index: Int32) -> Int32 {
        let top = nodes[Int(index)].right
        nodes[Int(index)].right = nodes[Int(top)].left
        nodes[Int(top)].left = index
        refresh(index)
        refresh(top)
        return top
    }
}

extension IntervalTree {
    /// What is wrong with the tree; empty when nothing is.
    func checkInvariants() -> [String] {
        var problems: [String] = []
        var previous: Key?
        var seen = 0
        func check(_ index: Int32) -> (height: Int, maxEnd: PageNumber) {
            guard index >= 0 else { return (0, PageNumber(0)) }
            let node = nodes[Int(index)]
            let left = check(node.left)
            if let previous, !(previous < node.key) { problems.append("interval tree: keys out of order") }
            previous = node.key
            seen += 1
            if node.payload == nil { problems.append("interval tree: a linked node is empty") }
            let right = check(node.right)
            if abs(left.height - right.height) > 1 { problems.append("interval tree: unbalanced") }
            let height = 1 + max(left.height, right.height)
            let maxEnd = max(node.end, left.maxEnd, right.maxEnd)
            if height != Int(node.height) { problems.append("interval tree: wrong height") }
            if maxEnd != node.maxEnd { problems.append("interval tree: wrong largest end") }
            return (height, maxEnd)
        }
        _ = check(root)
        if seen != count { problems.append("interval tree: \(seen) nodes, counted \(count)") }
        if seen + freeNodes.count != nodes.count { problems.append("interval tree: nodes lost") }
        return problems
    }
}
