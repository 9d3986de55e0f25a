import Glibc
import Synchronization

/// A thread of a test.
final class Worker: @unchecked Sendable {
    // Touched by the one who made it.
    private var handle = pthread_t()
    private let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) {
        self.body = body
        let status = pthread_create(
            &handle, nil,
            { context in
                Unmanaged<Worker>.fromOpaque(context!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(status == 0, "no thread for a test")
    }

    func join() { pthread_join(handle, nil) }
}

final class Counter: Sendable {
    private let value = Atomic<UInt64>(0)
    func add() { value.add(1, ordering: .relaxed) }
    func set(_ new: UInt64) { value.store(new, ordering: .releasing) }
    var count: UInt64 { value.load(ordering: .acquiring) }

    /// Adds to a word of ordinary memory, atomically.
    static func add(_ n: UInt64, at word: UnsafeMutablePointer<UInt64>) {
        UnsafeMutableRawPointer(word).assumingMemoryBound(to: Atomic<UInt64>.self).pointee
            .add(n, ordering: .sequentiallyConsistent)
    }
}
