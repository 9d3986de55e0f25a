extension MMUNotifiers {
    /// What the object at `address` is, for people; nil if neither the notifiers nor their clients know it. Asked while
    /// all threads stand still.
    func objectName(at address: UInt) -> String? {
        switch address {
        case lock.address: return "lock of the notifiers"
        case sequenceKey: return "sequence of the notifiers"
        case unobservedKey: return "invalidations before the first notifier"
        case epochKey: return "running invalidations of the notifiers"
        default: break
        }
        let everything = PageNumber(0)..<PageNumber(UInt64.max)
        var next = tree.first(overlapping: everything)
        while let (key, interval) = next {
            if let name = Self.objectName(at: address, of: interval) { return name }
            next = tree.first(overlapping: everything, after: key)
        }
        for interval in deferred {
            if let name = Self.objectName(at: address, of: interval) { return name }
        }
        for notifier in list {
            if let name = (notifier.client as? any ObjectNaming)?.objectName(at: address) { return name }
        }
        return nil
    }

    private static func objectName(at address: UInt, of interval: IntervalNotifier) -> String? {
        if address == UInt(bitPattern: Unmanaged.passUnretained(interval).toOpaque()) {
            return "sequence of notifier \(interval.identity)"
        }
        return (interval.client as? any ObjectNaming)?.objectName(at: address)
    }
}
