// What the objects at an address are called, for people. Asked while all threads stand still.

extension MMUNotifiers {
    /// An object of the notifiers themselves.
    func objectName(at address: UInt) -> String? {
        switch address {
        case lock.address: "lock of the notifiers"
        case sequenceKey: "sequence of the notifiers"
        case unobservedKey: "invalidations before the first notifier"
        case epochKey: "running invalidations of the notifiers"
        default: nil
        }
    }

    /// A notifier, or what one of the clients calls its own.
    func clientObjectName(at address: UInt) -> String? {
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
