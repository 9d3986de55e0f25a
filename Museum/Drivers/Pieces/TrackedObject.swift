import HMM
import HMMExplorer
import Synchronization

/// An object of a driver with a reference count. Whoever touches it after it was freed is reported, as KASAN reports
/// it, and so is whoever drops a reference that is not there.
///
/// It stays allocated, so that looking at it is always safe.
final class TrackedObject: Sendable {
    let name: String
    private let scene: Scene
    private let references: Atomic<Int>

    init(_ name: String, in scene: Scene, references: Int = 1) {
        self.name = name
        self.scene = scene
        self.references = Atomic(references)
    }

    private var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    /// One more reference, by somebody who knows that the object is there.
    func get() {
        schedulingPoint(.update, on: address)
        expectAlive(references.add(1, ordering: .acquiringAndReleasing).oldValue, "get")
    }

    /// One more reference, unless the last one is gone.
    func tryGet() -> Bool {
        schedulingPoint(.update, on: address)
        let count = references.load(ordering: .acquiring)
        if count > 0 { references.store(count + 1, ordering: .releasing) }
        return count > 0
    }

    /// Drops a reference; true if it was the last one, and the object is freed.
    func put() -> Bool {
        schedulingPoint(.update, on: address)
        let old = references.subtract(1, ordering: .acquiringAndReleasing).oldValue
        expectAlive(old, "put")
        return old == 1
    }

    /// Uses what the object holds.
    func touch(_ what: String) {
        schedulingPoint(.load, on: address)
        expectAlive(references.load(ordering: .acquiring), what)
    }

    private func expectAlive(_ count: Int, _ what: String) {
        if count <= 0 { scene.fail("\(what): \(name) was freed before", kind: .useAfterFree) }
    }
}
