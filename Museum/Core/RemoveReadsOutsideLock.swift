import HMM
import HMMExplorer
import Synchronization

extension Exhibit {
    static let removeReadsOutsideLock = Exhibit(
        "remove-reads-outside-lock",
        source: "319561669a59 (mm/mmu_notifier.c: fix race in mmu_interval_notifier_remove())",
        story: """
            mmu_interval_notifier_remove() waits until the sequence has moved, and reads it without the lock. The end \
            of an invalidation moves it first and drains the deferred list afterwards, inside the lock: in between, \
            the remover returns, its caller frees the notifier, and the drain unlinks freed memory. Fixed by reading \
            the sequence under the lock.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        switch version {
        case .asItWas: try asItWas(scene)
        case .mended: try mended(scene)
        }
    }
}

/// mm/mmu_notifier.c before the fix, as far as removal is concerned.
private final class OldSubscriptions: @unchecked Sendable {
    final class Node: @unchecked Sendable {
        // Written by its owner when no callback may run any more.
        var isFreed = false
    }

    private let lock = FairMutex(.driver)
    // Guarded by `lock`.
    private var sequence = NotifierSequence()
    private var deferred: [Node] = []
    /// invalidate_seq, as it is read without the lock.
    private let invalidateSequence = Atomic<UInt64>(2)
    private var key: UInt { withUnsafePointer(to: invalidateSequence) { UInt(bitPattern: $0) } }

    func start() {
        lock.lock()
        invalidateSequence.store(sequence.start(touchesInterval: true), ordering: .relaxed)
        lock.unlock()
    }

    func end(_ scene: Scene) {
        lock.lock()
        let isOver = sequence.end() == .thaw
        if isOver {
            schedulingPoint(.store, on: key)
            invalidateSequence.store(sequence.number, ordering: .relaxed)
            for node in deferred {
                schedulingPoint(.update, on: UInt(bitPattern: Unmanaged.passUnretained(node).toOpaque()))
                if node.isFreed { scene.fail("the drain unlinks a notifier that was freed", kind: .useAfterFree) }
            }
            deferred.removeAll()
        }
        lock.unlock()
        if isOver { WaitQueue.wakeAll(key) }
    }

    func remove(_ node: Node) {
        lock.lock()
        let isDeferred = sequence.isFrozen
        let number = sequence.number
        if isDeferred { deferred.append(node) }
        lock.unlock()
        // Wrong: the number has moved before the deferred list is drained, and both happen inside the lock.
        if isDeferred { WaitQueue.wait(on: key) { invalidateSequence.load(ordering: .relaxed) == number } }
    }
}

private func asItWas(_ scene: Scene) throws {
    let subscriptions = OldSubscriptions()
    let node = OldSubscriptions.Node()
    scene.thread("invalidate") {
        subscriptions.start()
        subscriptions.end(scene)
    }
    scene.thread("remove") {
        subscriptions.remove(node)
        schedulingPoint(.update, on: UInt(bitPattern: Unmanaged.passUnretained(node).toOpaque()))
        node.isFreed = true
    }
    scene.join()
}

/// A client that must not be called once its interval is removed.
private final class Client: IntervalNotifierClient, @unchecked Sendable {
    let scene: Scene
    // Written when no callback may run any more.
    var isFreed = false

    init(_ scene: Scene) { self.scene = scene }

    func invalidate(_ notifier: IntervalNotifier, _ range: InvalidationRange, sequence: UInt64) -> Bool {
        if isFreed { scene.fail("a client was called that was freed", kind: .useAfterFree) }
        notifier.setSequence(sequence)
        return true
    }
}

private func mended(_ scene: Scene) throws {
    let (space, cpu) = try scene.makeSpace(pages: 1)
    let client = Client(scene)
    let interval = try space.notifiers.insert(client, over: Place.pages(1))
    scene.thread("invalidate") { try space.advise(Place.pages(1), .dontneed) }
    scene.thread("remove") {
        interval.remove()
        client.isFreed = true
        let left = space.notifiers.subscriptionCount
        if left > 0 { scene.fail("\(left) notifiers are known after the last was removed", kind: .useAfterFree) }
    }
    scene.join()
    space.removeCPU(cpu)
    space.exit()
}
