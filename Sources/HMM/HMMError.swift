/// The errors of the public surface, each with the errno that a Linux user would see.
public struct HMMError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The Linux error numbers that the model can answer with.
    public enum Code: Int32, Sendable, CaseIterable {
        case notPermitted = 1  // EPERM
        case noEntry = 2  // ENOENT
        case interrupted = 4  // EINTR
        case tryAgain = 11  // EAGAIN
        case outOfMemory = 12  // ENOMEM
        case accessDenied = 13  // EACCES
        case badAddress = 14  // EFAULT
        case busy = 16  // EBUSY
        case noDevice = 19  // ENODEV
        case invalidArgument = 22  // EINVAL
        case tooManyFiles = 24  // EMFILE
        case noSpace = 28  // ENOSPC
        case outOfRange = 34  // ERANGE
        case overflow = 75  // EOVERFLOW
        case notSupported = 95  // EOPNOTSUPP
        case inconsistent = 117  // EUCLEAN
        case poisoned = 133  // EHWPOISON
    }

    public let code: Code
    /// What was wrong, in words, for a person.
    public let reason: StaticString

    public init(_ code: Code, _ reason: StaticString = "") {
        self.code = code
        self.reason = reason
    }

    /// The symbolic name, `EFAULT` for instance.
    public var errnoName: String {
        switch code {
        case .notPermitted: "EPERM"
        case .noEntry: "ENOENT"
        case .interrupted: "EINTR"
        case .tryAgain: "EAGAIN"
        case .outOfMemory: "ENOMEM"
        case .accessDenied: "EACCES"
        case .badAddress: "EFAULT"
        case .busy: "EBUSY"
        case .noDevice: "ENODEV"
        case .invalidArgument: "EINVAL"
        case .tooManyFiles: "EMFILE"
        case .noSpace: "ENOSPC"
        case .outOfRange: "ERANGE"
        case .overflow: "EOVERFLOW"
        case .notSupported: "EOPNOTSUPP"
        case .inconsistent: "EUCLEAN"
        case .poisoned: "EHWPOISON"
        }
    }

    public var description: String { reason.utf8CodeUnitCount == 0 ? errnoName : "\(errnoName): \(reason)" }

    /// Two errors are the same when their codes are: the reason is for people.
    public static func == (a: Self, b: Self) -> Bool { a.code == b.code }
    public func hash(into hasher: inout Hasher) { hasher.combine(code) }
}
