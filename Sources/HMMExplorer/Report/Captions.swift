import HMM

/// What a program says about its steps, pages and objects, for those who read a schedule.
///
/// Belongs to the thread of the system that explores. Marks are kept from schedule to schedule; names are taken only in
/// the schedule that is shown, so that they cost the others nothing.
final class Captions {
    /// By number, in the order of their first use.
    var marks: [String] = []
    /// Whether the schedule under way is one that will be shown.
    private(set) var isShown = false
    private var names: [UInt: String] = [:]
    private var regions: [(pages: PageRange, name: String)] = []

    func begin(isShown: Bool) {
        self.isShown = isShown
        names = [:]
        regions = []
    }

    func number(of mark: String) -> Int {
        if let known = marks.firstIndex(of: mark) { return known }
        marks.append(mark)
        return marks.count - 1
    }

    func add(_ name: String, at address: UInt) { names[address] = name }
    func add(_ name: String, for pages: PageRange) { regions.append((pages, name)) }

    /// What the program or the machine calls the object at `address`.
    func name(of address: UInt, on machine: Machine) -> String? {
        names[address] ?? machine.name(of: address) { page in self.name(of: page) }
    }

    /// `a[3]` for a page of a region that was named, else its address.
    private func name(of page: PageNumber) -> String {
        for region in regions.reversed() where region.pages.contains(page) {
            let offset = region.pages.lowerBound.distance(to: page)
            return region.pages.pageCount == 1 ? region.name : "\(region.name)[\(offset)]"
        }
        return "\(page)"
    }
}

extension Scene {
    /// The running thread begins `what`, until its next mark: shown with the steps of a schedule that goes wrong.
    public func mark(_ what: String) { scheduler.mark(stage.captions.number(of: what)) }

    /// What to call a lock in a schedule that is shown.
    public func name(_ lock: borrowing FairMutex, _ name: @autoclosure () -> String) {
        if stage.captions.isShown { stage.captions.add(name(), at: lock.address) }
    }

    /// What to call the object at `address`, as scheduling points name it.
    public func name(_ address: UInt, _ name: @autoclosure () -> String) {
        if stage.captions.isShown { stage.captions.add(name(), at: address) }
    }

    /// What to call the pages of a range: `name[0]`, `name[1]` and so on.
    public func name(_ pages: PageRange, _ name: @autoclosure () -> String) {
        if stage.captions.isShown { stage.captions.add(name(), for: pages) }
    }

    /// What the numbers of `mark(_: Int)` stand for; kept for all schedules.
    package func setMarks(_ marks: @autoclosure () -> [String]) {
        if stage.captions.isShown { stage.captions.marks = marks() }
    }
}
