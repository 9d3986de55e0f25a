import Testing

@testable import HMM

@Suite struct LockOrderTests {
    /// What a virtual thread reports that runs `body`; the locks are made inside.
    private func violations(_ body: @escaping () -> Void) -> [LockOrderViolation] {
        RoundRobinScheduler.run([body]).violations
    }

    @Test func theOrderAsWrittenIsAccepted() {
        let order: [LockClass] = [
            .inode, .mmap, .vma, .invalidate, .folio, .hugetlbFault, .hugetlbVMA, .iMmap, .hugetlbFolio, .anonVMA,
            .subscriptions,
        ]
        for branch: [LockClass] in [[.driver, .mirrorDirectory], [.pmd, .pte, .swap, .lru]] {
            let found = violations {
                let path = order + branch + [.zone, .leaf, .pool]
                for (index, lockClass) in path.enumerated() {
                    LockOrder.willAcquire(lockClass, UInt(index + 1))
                    LockOrder.acquired(lockClass, UInt(index + 1))
                }
                for (index, lockClass) in path.enumerated().reversed() {
                    LockOrder.released(lockClass, UInt(index + 1))
                }
            }
            #expect(found.isEmpty)
        }
    }

    @Test(arguments: [
        (LockClass.mmap, LockClass.inode), (.folio, .mmap), (.pte, .folio), (.pte, .pmd), (.pte, .driver),
        (.driver, .pte), (.driver, .pmd), (.mirrorDirectory, .pte), (.driver, .mmap), (.leaf, .zone),
        (.pool, .leaf), (.lru, .swap), (.driver, .swap), (.anonVMA, .iMmap), (.driver, .subscriptions),
    ])
    func againstTheOrderIsReported(held: LockClass, wanted: LockClass) {
        let found = violations {
            LockOrder.acquired(held, 1)
            LockOrder.willAcquire(wanted, 2)
        }
        #expect(found == [.init(kind: .order, lockClass: wanted, object: 2, held: held, heldObject: 1)])
        #expect(found[0].description.contains(held.name) && found[0].description.contains(wanted.name))
    }

    @Test func triedLocksAreNotCheckedButHeld() {
        let found = violations {
            let outer = FairMutex(.driver)
            let inner = FairMutex(.mirrorDirectory)
            let innermost = SpinLock(.mirrorDirectory)
            inner.lock()
            #expect(claim(outer.tryLock()))
            innermost.lock()
        }
        #expect(found.map(\.lockClass) == [.mirrorDirectory])
    }

    /// Two page-table locks: upwards is right, downwards is wrong, a third is too many.
    @Test func pageTableLocksPairUpwards() {
        let locks = UnsafeMutablePointer<SpinLock>.allocate(capacity: 3)
        for index in 0..<3 { (locks + index).initialize(to: SpinLock(.pte)) }
        func taking(_ order: [Int]) -> [LockOrderViolation] {
            violations {
                for index in order { locks[index].lock() }
                for index in order { locks[index].unlock() }
            }
        }
        #expect(taking([0, 2]).isEmpty)
        #expect(taking([1, 0]).count == 1)
        #expect(taking([0, 1, 2]).count == 1)
        locks.deinitialize(count: 3)
        locks.deallocate()
    }

    @Test func onlyTheNestedVariantAdmitsASecondLockOfAClass() {
        let parent = RWLock(.mmap)
        let child = RWLock(.mmap)
        let nested = violations {
            parent.lockWrite()
            child.lockWriteNested()
            child.unlockWrite()
            parent.unlockWrite()
        }
        #expect(nested.isEmpty)
        let plain = violations {
            parent.lockWrite()
            child.lockWrite()
            child.unlockWrite()
            parent.unlockWrite()
        }
        #expect(plain.map(\.kind) == [.order])
    }

    /// Nothing waits here, and still a second read lock of one thread is an error: a writer may come in between.
    @Test func recursiveReadingIsReported() {
        let lock = RWLock(.mmap)
        let found = violations {
            lock.lockRead()
            lock.lockRead()
            lock.unlockRead()
            lock.unlockRead()
        }
        #expect(found.map(\.kind) == [.recursion])
    }

    @Test func releaseByAThreadThatDoesNotHoldIsReported() {
        let lock = FairMutex(.driver)
        var found: [LockOrderViolation] = []
        let outcome = RoundRobinScheduler.run([
            { lock.lock() },
            {
                while !lock.isLocked { SyncThread.yield() }
                lock.unlock()
            },
        ])
        found = outcome.violations
        #expect(found.map(\.kind) == [.notHeld])
        #expect(outcome.leftLocks == 1)
    }

    @Test(arguments: [(LockClass.swap, 0), (.zone, 0), (.pool, 0), (.leaf, 2), (.lru, 2), (.pte, 2)])
    func locksThatCommuteAreNoSchedulingPoints(lockClass: LockClass, points: Int) {
        #expect(lockClass.commutes == (points == 0))
        let lock = SpinLock(lockClass)
        let outcome = RoundRobinScheduler.run([{ lock.withLock {} }])
        #expect(outcome.trace.count == points)
        #expect(outcome.ending == .finished && outcome.leftLocks == 0)
    }

    /// Other threads would find the lock taken, which those who skip its scheduling points never see.
    @Test func aSchedulingPointUnderALockThatCommutesTraps() async {
        await #expect(processExitsWith: .failure) {
            let lock = SpinLock(.pool)
            _ = RoundRobinScheduler.run([{ lock.withLock { schedulingPoint(.load, on: 1) } }])
        }
    }

    #if HMM_INVARIANT_CHECKS
        @Test func aViolationOnAThreadOfTheSystemTraps() async {
            await #expect(processExitsWith: .failure) {
                let driver = FairMutex(.driver)
                let table = SpinLock(.pte)
                driver.withLock { table.withLock {} }
            }
        }

        @Test func heldLocksAreCountedPerThread() {
            let shared = Guarded()
            shared.mutex.lock()
            #expect(SyncThread.heldLockCount == 1)
            onThreads(1) { _ in #expect(SyncThread.heldLockCount == 0) }
            shared.mutex.unlock()
            #expect(SyncThread.heldLockCount == 0)
        }
    #endif
}
