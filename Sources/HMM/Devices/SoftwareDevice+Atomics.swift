import Synchronization

// Atomic accesses of a software device: local where the page is in its own memory, otherwise on a page of system memory
// that it has exclusively.
//
// Lock order: mmap > the folio of the grant > `driverLock`.

extension SoftwareDevice {
    /// Adds to the word at `address`, a multiple of 8, atomically for every CPU and every device. Answers the
    /// old value; the sum wraps around.
    public func atomicAdd(_ value: UInt64, at address: VirtualAddress) throws(HMMError) -> UInt64 {
        let word = try Self.wordIndex(address)
        return try withPage(PageNumber(containing: address), for: .atomic) {
            $0[word].wrappingAdd(value, ordering: .sequentiallyConsistent).oldValue
        }
    }

    /// Stores `desired` in the word if it holds `expected`. Answers the old value: it was stored if that is `expected`.
    public func atomicCompareExchange(
        _ expected: UInt64, _ desired: UInt64, at address: VirtualAddress
    ) throws(HMMError) -> UInt64 {
        let word = try Self.wordIndex(address)
        return try withPage(PageNumber(containing: address), for: .atomic) {
            $0[word].compareExchange(
                expected: expected, desired: desired, ordering: .sequentiallyConsistent
            ).original
        }
    }

    /// Takes the page for an atomic access and makes it. Nil: it has to be tried again.
    ///
    /// The access happens while the grant is held, so that each grant is worth one.
    func useExclusively<Result>(
        _ page: PageNumber, isFirstTry: Bool, _ body: (Words) -> Result
    ) throws(HMMError) -> Result? {
        var result: Result?
        if try useOwn(page, { result = use(page, .atomic, body) }) { return result }
        do throws(HMMError) {
            _ = try space.exclusiveFault(page, interval: interval, policy: policy) { frame, sequence throws(HMMError) in
                driverLock.lock()
                defer { driverLock.unlock() }
                guard !interval.readRetry(sequence) else { return false }
                let run = MirrorRun(
                    pages: page..<page.advanced(by: 1), firstFrame: frame, isWritable: true,
                    location: location(of: frame), isAtomic: true)
                guard try store([run]) else { return false }
                result = use(page, .atomic, body)
                return true
            }
        } catch {
            // What cannot be exclusive may still move.
            guard error.code == .notSupported, isFirstTry, memory != nil,
                try prefetch(page..<page.advanced(by: 1), faulting: .write).moved > 0
            else { throw error }
        }
        return result
    }

    /// Maps the page and calls `access`, if it is in the device's own memory. An exclusive access would bring it home.
    /// True if it is there, whether or not it may be written.
    private func useOwn(_ page: PageNumber, _ access: () -> Void) throws(HMMError) -> Bool {
        guard let memory else { return false }
        var range = HMMRange(interval, page..<page.advanced(by: 1))
        range.ownMemory = memory
        // A look, which keeps nothing from anybody.
        var policy = policy
        policy.residenceNanoseconds = 0
        var isOwn = false
        _ = try space.deviceFault(&range, policy: policy) { (range: borrowing HMMRange) throws(HMMError) -> Bool in
            isOwn = range[0].isValid && memory.contains(range[0].frame)
            return isOwn ? try commit(range, then: access) : !range.mustRetry()
        }
        return isOwn
    }
}
