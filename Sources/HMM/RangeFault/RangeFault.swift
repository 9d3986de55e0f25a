// Lock order: the mmap lock (held by the caller) > what a fault takes. No driver lock is held.

extension AddressSpace {
    /// Reads the CPU's page tables for a range of pages, after making present and writable what was requested.
    ///
    /// The mmap lock is held, for reading at least, and `range.sequence` comes from a `readBegin` of this round. The
    /// call may fault, sleep for pages that are being moved, and start notifications of its own, so no driver lock is
    /// held. With nothing requested it is a snapshot: it changes nothing, not even the young bits, and never sleeps.
    ///
    /// When it answers `.done`, each page has its result; whether these still hold the driver decides under its own
    /// lock, by `mustRetry`. A requested page is valid, and writable if that was requested, with one exception: a page
    /// in the caller's own device-private memory is reported as it is. After an error, results are undefined, but pages
    /// that were faulted in stay so.
    ///
    /// Errors: EFAULT: nothing readable is mapped at a requested page, or it cannot be had (end of file, failed page).
    /// EPERM: a writable page was requested of a mapping that is not. ENOMEM. EINVAL: the range is empty or outside its
    /// interval, where nobody would tell that a result is stale.
    ///
    /// Kernel: mm/hmm.c hmm_range_fault (6.12).
    ///
    /// Invariant: INV-RF-2, INV-RF-3, INV-RF-5.
    public func rangeFault(_ range: inout HMMRange) throws(HMMError) -> RangeFaultOutcome {
        guard !range.pages.isEmpty, range.interval.pages.contains(range.pages) else {
            throw HMMError(.invalidArgument, "the range is empty or outside its interval")
        }
        var walk = RangeFaultWalk(self, range)
        defer { range.faultCount += walk.faultCount }
        while true {
            // Each turn was preceded by a fault or a wait. Two actors that undo each other's work keep it turning until
            // this sees their invalidations, which the interval covers.
            if range.interval.checkRetry(range.sequence) { return .sequenceMoved }
            if try walk.walk() == .next { return .done }
        }
    }
}
