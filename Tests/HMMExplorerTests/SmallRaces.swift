import HMM
import HMMExplorer
import Synchronization

/// A word that threads share without a lock, each access a step.
final class SharedWord: Sendable {
    private let value = Atomic<Int>(0)

    var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

    func load() -> Int {
        schedulingPoint(.load, on: address)
        return value.load(ordering: .relaxed)
    }

    func store(_ new: Int) {
        schedulingPoint(.store, on: address)
        value.store(new, ordering: .relaxed)
    }

    /// Without a step: for a program that runs alone.
    var now: Int { value.load(ordering: .relaxed) }
}

/// A small program, and what its final state looks like.
struct SmallRace: Sendable, CustomStringConvertible {
    let name: String
    let body: @Sendable (Scene) -> String

    var description: String { name }

    static let all: [SmallRace] = [
        SmallRace(name: "two increments") { scene in
            let word = SharedWord()
            for name in ["a", "b"] {
                scene.thread(name) {
                    let old = word.load()
                    word.store(old + 1)
                }
            }
            scene.join()
            return "\(word.now)"
        },
        SmallRace(name: "three increments") { scene in
            let word = SharedWord()
            for name in ["a", "b", "c"] {
                scene.thread(name) {
                    let old = word.load()
                    word.store(old + 1)
                }
            }
            scene.join()
            return "\(word.now)"
        },
        SmallRace(name: "store buffering") { scene in
            let (x, y, first, second) = (SharedWord(), SharedWord(), SharedWord(), SharedWord())
            scene.thread("a") {
                x.store(1)
                first.store(y.load())
            }
            scene.thread("b") {
                y.store(1)
                second.store(x.load())
            }
            scene.join()
            return "\(first.now) \(second.now)"
        },
        SmallRace(name: "independent reads of a written word") { scene in
            let (x, log) = (SharedWord(), (0..<3).map { _ in SharedWord() })
            scene.thread("writer") {
                x.store(1)
                x.store(2)
            }
            for i in 0..<2 { scene.thread("reader \(i)") { log[i].store(x.load()) } }
            scene.join()
            return log.map { "\($0.now)" }.joined(separator: " ")
        },
        SmallRace(name: "increments under a mutex") { scene in
            let (word, box) = (SharedWord(), MutexBox())
            for name in ["a", "b"] {
                scene.thread(name) {
                    box.mutex.lock()
                    word.store(word.load() + 1)
                    box.mutex.unlock()
                }
            }
            scene.join()
            return "\(word.now)"
        },
        SmallRace(name: "a mutex and a race beside it") { scene in
            let (word, order, box) = (SharedWord(), SharedWord(), MutexBox())
            scene.thread("a") {
                order.store(order.load() * 10 + 1)
                box.mutex.lock()
                word.store(word.load() * 10 + 1)
                box.mutex.unlock()
            }
            scene.thread("b") {
                box.mutex.lock()
                word.store(word.load() * 10 + 2)
                box.mutex.unlock()
                order.store(order.load() * 10 + 2)
            }
            scene.join()
            return "\(word.now) \(order.now)"
        },
        SmallRace(name: "try locks") { scene in
            let (got, box) = ((0..<2).map { _ in SharedWord() }, MutexBox())
            for i in 0..<2 {
                scene.thread("\(i)") {
                    if box.mutex.tryLock() {
                        got[i].store(1)
                        box.mutex.unlock()
                    }
                }
            }
            scene.join()
            return "\(got[0].now) \(got[1].now)"
        },
        SmallRace(name: "a try between two owners") { scene in
            let (word, got, box) = (SharedWord(), SharedWord(), MutexBox())
            for i in 1...2 {
                scene.thread("owner \(i)") {
                    box.mutex.lock()
                    word.store(word.now * 10 + i)
                    box.mutex.unlock()
                }
            }
            scene.thread("tries") {
                if box.mutex.tryLock() {
                    got.store(word.now + 1)
                    box.mutex.unlock()
                }
            }
            scene.join()
            return "\(word.now) \(got.now)"
        },
        SmallRace(name: "readers and a writer of a lock") { scene in
            let (word, seen, box) = (SharedWord(), (0..<2).map { _ in SharedWord() }, MutexBox())
            scene.thread("writer") {
                box.rwLock.lockWrite()
                word.store(1)
                word.store(2)
                box.rwLock.unlockWrite()
            }
            for i in 0..<2 {
                scene.thread("reader \(i)") {
                    box.rwLock.lockRead()
                    seen[i].store(word.load())
                    box.rwLock.unlockRead()
                }
            }
            scene.join()
            return seen.map { "\($0.now)" }.joined(separator: " ")
        },
        SmallRace(name: "a sequence count") { scene in
            let (x, y, seen, box) = (SharedWord(), SharedWord(), SharedWord(), MutexBox())
            scene.thread("writer") {
                box.count.writeBegin()
                x.store(1)
                y.store(1)
                box.count.writeEnd()
            }
            scene.thread("reader") {
                var start: UInt32
                var value: Int
                repeat {
                    start = box.count.readBegin()
                    value = x.load() * 10 + y.load()
                } while box.count.readRetry(start)
                seen.store(value)
            }
            scene.join()
            return "\(seen.now)"
        },
        SmallRace(name: "a sleeper and two wakers") { scene in
            let (word, order) = (SharedWord(), SharedWord())
            scene.thread("sleeper") {
                WaitQueue.wait(on: word.address + 1) { word.now == 0 }
                order.store(order.load() * 10 + 1)
            }
            for i in 2...3 {
                scene.thread("waker \(i)") {
                    word.store(i)
                    WaitQueue.wakeAll(word.address + 1)
                    order.store(order.load() * 10 + i)
                }
            }
            scene.join()
            return "\(order.now) \(word.now)"
        },
        SmallRace(name: "two locks in one order") { scene in
            let (word, first, second) = (SharedWord(), MutexBox(), MutexBox())
            for i in 1...2 {
                scene.thread("\(i)") {
                    first.mutex.lock()
                    second.innermost.lock()
                    word.store(word.load() * 10 + i)
                    second.innermost.unlock()
                    first.mutex.unlock()
                    second.innermost.lock()
                    word.store(word.load() * 10 + i)
                    second.innermost.unlock()
                }
            }
            scene.join()
            return "\(word.now)"
        },
        SmallRace(name: "a writer that gives way") { scene in
            let (word, seen) = (SharedWord(), SharedWord())
            scene.thread("writer") {
                word.store(1)
                SyncThread.yield()
                word.store(2)
            }
            scene.thread("reader") { seen.store(word.load() * 10 + word.load()) }
            scene.join()
            return "\(seen.now)"
        },
        SmallRace(name: "a reference that is only tried") { scene in
            let (frames, got) = (scene.machine.frames, SharedWord())
            let frame = frames.allocateFolio()!
            scene.thread("looker") {
                guard frames.tryGet(frame) else { return }
                got.store(1)
                frames.put(frame)
            }
            scene.thread("owner") { frames.put(frame) }
            scene.join()
            return "\(got.now)"
        },
        SmallRace(name: "a thread that starts another") { scene in
            let (word, seen) = (SharedWord(), SharedWord())
            scene.thread("parent") {
                word.store(1)
                let child = SyncThread.spawn(name: "child") { word.store(2) }
                seen.store(word.load())
                child.join()
            }
            scene.thread("other") { word.store(3) }
            scene.join()
            return "\(word.now) \(seen.now)"
        },
    ]
}

/// Locks that threads share.
final class MutexBox: Sendable {
    let mutex = FairMutex(.driver)
    let innermost = SpinLock(.leaf)
    let rwLock = RWLock(.mmap)
    let count = SequenceCount()
}
