import Synchronization

/// One thread's way through the directories of a mirror.
///
/// It protects every directory between the root and where it stands; protection is a count, not a lock, so other
/// iterators and device accesses run in the same directories. `finish()` is mandatory on every path.
struct DirectoryIterator: ~Copyable {
    private let tree: DirectoryTree
    /// Protected directories by level; the root, at the top, needs no protection.
    private var held: InlineArray<4, UInt32>
    /// The deepest level that is held.
    private var lowest: Int
    /// Empty directories inside this range are freed at once when the iterator leaves them.
    private let prunedPages: PageRange
    /// Free every directory that is empty when the iterator leaves it: a populate failed.
    var prunesAll = false

    /// - Parameter prunedPages: a range that goes away.
    init(_ tree: DirectoryTree, pruning prunedPages: PageRange? = nil) {
        self.tree = tree
        self.prunedPages = prunedPages ?? PageNumber(0)..<PageNumber(0)
        held = InlineArray(repeating: DirectoryPool.none)
        lowest = tree.geometry.rootLevel
        held[lowest] = tree.root
    }

    deinit { precondition(lowest == tree.geometry.rootLevel, "an iterator was not finished") }

    /// Where an iterator stands: at the deepest directory that exists for a page.
    struct Spot {
        let directory: UInt32
        let level: Int
    }

    /// Goes to the deepest directory for `page` that is linked, not below `target`.
    ///
    /// The slot for the page there is empty, a leaf, or a link to a directory that is dying or too new to be seen.
    mutating func descend(to page: PageNumber, target: Int = 0) -> Spot {
        while lowest < tree.geometry.rootLevel, lowest < target || !holds(page) { leaveLowest() }
        guard lowest > target else { return Spot(directory: held[lowest], level: lowest) }
        let section = tree.pool.epoch.enter()
        while lowest > target {
            let slot = tree.pool.entries(held[lowest]) + MirrorGeometry.index(page, lowest)
            schedulingPoint(.load, on: UInt(bitPattern: slot))
            let entry = MirrorEntry(word: slot.pointee.load(ordering: .acquiring))
            guard entry.isDirectory, tree.tryProtect(entry.directoryIndex) else { break }
            lowest -= 1
            held[lowest] = entry.directoryIndex
        }
        tree.pool.epoch.leave(section)
        return Spot(directory: held[lowest], level: lowest)
    }

    /// Goes to the directory of level `target` for `page`, creating what is missing. Stops above it only at a leaf.
    ///
    /// Each further turn means that another thread linked or freed a directory here, so somebody always gets on.
    mutating func populate(to page: PageNumber, target: Int) throws(HMMError) -> Spot {
        while true {
            let spot = descend(to: page, target: target)
            guard spot.level > target else { return spot }
            let slot = tree.pool.entries(spot.directory) + MirrorGeometry.index(page, spot.level)
            let entry = MirrorEntry(word: slot.pointee.load(ordering: .acquiring))
            if entry.isValid { return spot }
            let child = tree.allocate()
            guard child != DirectoryPool.none else {
                throw HMMError(.outOfMemory, "no memory for a directory of the mirror")
            }
            if tree.link(child, in: spot.directory, at: page) {
                lowest -= 1
                held[lowest] = child
            } else {
                tree.pool.giveBack(child)
            }
        }
    }

    /// Whether the deepest held directory has an entry for the page.
    private func holds(_ page: PageNumber) -> Bool {
        let base = tree.pool.place(held[lowest]).pointee.basePage.raw
        return (base ^ page.raw) >> UInt64(MirrorGeometry.order(lowest + 1)) == 0
    }

    private mutating func leaveLowest() {
        let directory = held[lowest]
        held[lowest] = DirectoryPool.none
        lowest += 1
        let isForced = prunesAll || prunedPages.contains(tree.pool.place(directory).pointee.pages)
        tree.drop(directory, isForced: isForced)
    }

    /// Puts a leaf in the place of the deepest directory, if it is empty and nobody else is in it.
    mutating func replaceLowest(by leaf: MirrorEntry) -> Bool {
        guard tree.kill(held[lowest]) else { return false }
        return forgetDead(leaving: leaf)
    }

    /// Lets go of the deepest directory, which has died. False if its link was replaced already, by a populate that met
    /// it dead.
    mutating func forgetDead(leaving leaf: MirrorEntry) -> Bool {
        let directory = held[lowest]
        held[lowest] = DirectoryPool.none
        lowest += 1
        return tree.unlink(directory, leaving: leaf)
    }

    /// Gives up every protection, from the leaf up to the root, and frees what has become free.
    mutating func finish() {
        while lowest < tree.geometry.rootLevel { leaveLowest() }
        tree.pool.collect()
    }
}
