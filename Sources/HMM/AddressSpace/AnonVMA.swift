/// The reverse map of anonymous pages: which VMAs may map a page that was first touched in one of them.
///
/// A VMA has one of its own, where its new pages go, and is linked to those of all its ancestors by fork, since a page
/// shared by fork keeps the identity it was born with. Which object a VMA has decides whether neighbours may merge,
/// which programs can see (mremap refuses a range of two VMAs), so the rules of creation and reuse are the kernel's.
///
/// Kernel: mm/rmap.c __anon_vma_prepare, anon_vma_clone, anon_vma_fork, unlink_anon_vmas (6.12).
/// Locks: `root.lock` (.anonVMA) guards `users` of the whole tree, `childCount` and `activeCount`.
final class AnonVMA: @unchecked Sendable {
    /// The number by which frames name this object; never used again in the life of a machine.
    let id: UInt32
    private let ownLock = RWLock(.anonVMA)
    private unowned let rootIfChild: AnonVMA?
    let parent: AnonVMA?
    /// Keeps the lock of the tree alive.
    private let rootReference: AnonVMA?
    /// VMAs linked to this object, in the order in which walkers visit them.
    private(set) var users: [VMA] = []
    /// Objects whose parent this is; a root counts itself.
    var childCount = 0
    /// VMAs whose own object this is.
    var activeCount = 0

    init(id: UInt32, parent: AnonVMA?) {
        self.id = id
        self.parent = parent
        rootReference = parent.map { $0.rootReference ?? $0 }
        rootIfChild = rootReference
        if parent == nil { childCount = 1 }
    }

    var root: AnonVMA { rootIfChild ?? self }

    var lockAddress: UInt { ownLock.address }

    func lockRead() { root.ownLock.lockRead() }
    func unlockRead() { root.ownLock.unlockRead() }
    func lockWrite() { root.ownLock.lockWrite() }
    func unlockWrite() { root.ownLock.unlockWrite() }

    /// With the tree locked for writing.
    func insert(_ vma: VMA) { users.insertByOffset(vma) }
    /// With the tree locked for writing.
    func remove(_ vma: VMA) { users.remove(at: users.firstIndex { $0 === vma }!) }
}

/// The anonymous reverse maps of a machine by number, so that frames can name them.
///
/// Locks: `lock` (.pool).
final class AnonVMATable: @unchecked Sendable {
    private let lock = SpinLock(.pool)
    private var objects: [AnonVMA?] = [nil]
    private var liveCount = 0

    /// Numbers start again. No object exists, and nobody else calls.
    func recycle() {
        lock.withLock {
            precondition(liveCount == 0, "anonymous reverse maps were forgotten")
            objects.removeLast(objects.count - 1)
        }
    }

    /// Objects that exist.
    var live: Int { lock.withLock { liveCount } }

    func make(parent: AnonVMA?) -> AnonVMA {
        lock.withLock {
            let object = AnonVMA(id: UInt32(objects.count), parent: parent)
            objects.append(object)
            liveCount += 1
            return object
        }
    }

    func remove(_ object: AnonVMA) {
        schedulingPoint(.update, on: Self.key(object.id))
        lock.withLock {
            objects[Int(object.id)] = nil
            liveCount -= 1
        }
    }

    /// The object with this number, or nil when it is gone: then no VMA maps the page that names it.
    func find(_ id: UInt32) -> AnonVMA? {
        schedulingPoint(.load, on: Self.key(id))
        return lock.withLock { objects[Int(id)] }
    }

    /// What the place of one object in the table is called at scheduling points: no address, there is none that stays.
    private static func key(_ id: UInt32) -> UInt { keyTag << 60 | UInt(id) }
    static let keyTag: UInt = 0xA
}

extension VMA {
    /// Links `self` to all objects that `source` is linked to. Reuses as its own object one that has lost its VMA and
    /// has no other child.
    ///
    /// The mmap lock is held for writing.
    func cloneAnonVMAs(from source: VMA) {
        guard let root = source.chain.first?.root else { return }
        root.lockWrite()
        for object in source.chain {
            object.insert(self)
            chain.append(object)
            if anonVMA == nil, source.anonVMA != nil, object.childCount < 2, object.activeCount == 0 {
                anonVMA = object
            }
        }
        anonVMA?.activeCount += 1
        root.unlockWrite()
    }

    /// Gives a child's VMA its links: those of the parent's VMA, and an object of its own.
    func forkAnonVMAs(from source: VMA, table: AnonVMATable) {
        guard let own = source.anonVMA else { return }
        cloneAnonVMAs(from: source)
        if anonVMA != nil { return }
        let object = table.make(parent: own)
        object.lockWrite()
        object.activeCount += 1
        own.childCount += 1
        object.insert(self)
        chain.append(object)
        anonVMA = object
        object.unlockWrite()
    }

    /// Drops all links. Objects without VMAs are gone then.
    func unlinkAnonVMAs(table: AnonVMATable) {
        guard let root = chain.first?.root else { return }
        root.lockWrite()
        for object in chain.reversed() {
            object.remove(self)
            if object.users.isEmpty {
                if let parent = object.parent { parent.childCount -= 1 }
                table.remove(object)
            }
        }
        anonVMA?.activeCount -= 1
        anonVMA = nil
        chain = []
        root.unlockWrite()
    }
}

extension AddressSpace {
    /// Makes sure that the VMA has an object for its anonymous pages: a neighbour's, if the two could merge one day,
    /// or a new one. The mmap lock is held.
    func prepareAnonVMA(_ vma: VMA) throws(HMMError) {
        if vma.anonVMA != nil { return }
        try machine.faultInjector.check(.object)
        let reused = reusableAnonVMA(for: vma)
        let object = reused ?? machine.anonVMAs.make(parent: nil)
        object.lockWrite()
        let isFirst = vma.anonVMAPublication.withLock {
            guard vma.anonVMA == nil else { return false }
            vma.chain = [object]
            vma.anonVMA = object
            return true
        }
        if isFirst {
            object.insert(vma)
            object.activeCount += 1
        }
        object.unlockWrite()
        if !isFirst, reused == nil { machine.anonVMAs.remove(object) }
    }

    private func reusableAnonVMA(for vma: VMA) -> AnonVMA? {
        if let next = vmas.next(after: vma), let object = Self.reusable(next, vma, next) { return object }
        if let previous = vmas.previous(before: vma) { return Self.reusable(previous, previous, vma) }
        return nil
    }

    private static func reusable(_ old: VMA, _ low: VMA, _ high: VMA) -> AnonVMA? {
        guard low.pages.upperBound == high.pages.lowerBound, low.file === high.file,
            low.flags.symmetricDifference(high.flags).isSubset(of: .access),
            high.pageOffset == low.pageOffset + UInt64(low.pages.pageCount),
            let object = old.anonVMA, old.chain.count == 1
        else { return nil }
        return object
    }
}
