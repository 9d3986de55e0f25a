/// Who knows what the locks and shared words of its own are called, for people who read a schedule.
///
/// A driver whose interval notifier's client conforms is asked for every address that nobody else knows. It is called
/// while all threads stand still between two steps: it takes no lock, waits for nothing and announces nothing.
public protocol ObjectNaming: AnyObject {
    /// What stands at `address`, as scheduling points name it; nil if it is none of its own.
    func objectName(at address: UInt) -> String?
}
