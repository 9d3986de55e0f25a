import HMMScenario

/// What the player asks of a process, a line each.
enum LiveRequest: Equatable {
    /// Run the statement with this line of the scenario, in a thread of its own if it stands in a race. The pages of
    /// its range in `twins` are mapped by other processes too.
    case run(line: Int, ownThread: Bool, twins: [Twin])
    /// Another process gave back the device's memory: with `release`, or by the last close of a mirror.
    case bringHome(device: Int, isReleased: Bool)
    /// Pages that this process shares since a fork went to a device, or home, in another process.
    case follow(SharedMove)
    /// The reverse map was walked for these pages in another process: mirrors hear of it.
    case walk(RegionPages)
    /// Which pages of a file or of shared memory are mapped here?
    case look(RegionPages)
    /// The scenario is over: say what it cost, and end.
    case end

    var text: String {
        switch self {
        case .run(let line, let ownThread, let twins):
            (["run \(line) \(ownThread ? 1 : 0)"] + twins.map(\.text)).joined(separator: " ")
        case .bringHome(let device, let isReleased): "bring \(device) \(isReleased ? 1 : 0)"
        case .follow(let move): "follow \(move.text)"
        case .walk(let pages): "walk \(pages.text)"
        case .look(let pages): "look \(pages.text)"
        case .end: "end"
        }
    }

    init?(text: String) {
        let words = text.split(separator: " ")
        let numbers = words.dropFirst().compactMap { Int($0) }
        switch (words.first, numbers.count) {
        case ("run", let count) where count % 3 == 2:
            let twins = stride(from: 2, to: count, by: 3).map { first in
                Twin(pages: numbers[first]..<numbers[first + 1], isHeard: numbers[first + 2] == 1)
            }
            self = .run(line: numbers[0], ownThread: numbers[1] == 1, twins: twins)
        case ("bring", 2): self = .bringHome(device: numbers[0], isReleased: numbers[1] == 1)
        case ("follow", 4): self = .follow(SharedMove(numbers))
        case ("walk", 3): self = .walk(RegionPages(numbers))
        case ("look", 3): self = .look(RegionPages(numbers))
        case ("end", 0): self = .end
        default: return nil
        }
    }
}

/// Pages of a region that moved together: to a device, or home.
struct SharedMove: Equatable {
    var pages: RegionPages
    /// The device's number; nil: home.
    var device: Int?

    var text: String { "\(pages.text) \(device ?? -1)" }

    init(pages: RegionPages, device: Int?) {
        self.pages = pages
        self.device = device
    }

    /// The numbers of `text`.
    init(_ numbers: [Int]) {
        pages = RegionPages(numbers)
        device = numbers[3] < 0 ? nil : numbers[3]
    }
}

/// Pages counted within a region, wherever that is mapped.
struct RegionPages: Hashable {
    var region: Int
    var pages: Range<Int>

    var text: String { "\(region) \(pages.lowerBound) \(pages.upperBound)" }

    init(region: Int, pages: Range<Int>) {
        self.region = region
        self.pages = pages
    }

    /// The first numbers of a `text`.
    init(_ numbers: some RandomAccessCollection<Int>) {
        let numbers = Array(numbers)
        self.init(region: numbers[0], pages: numbers[1]..<numbers[2])
    }
}

/// What a process did beside answering: the player makes it known to the others.
enum LiveEffect: Equatable {
    /// A child was forked.
    case forked(process: Int, pid: Int)
    /// The last mirror of the device was closed here.
    case closed(device: Int)
    case released(device: Int)
    /// These pages are shared with the child.
    case shared(child: Int, RegionPages)
    /// Shared pages moved.
    case moved(SharedMove)
    /// These pages, which others map too, were taken out of all page tables, and put back if they cannot move.
    case collected(RegionPages)
    /// The answer to `look`.
    case mapped(RegionPages)
    /// Pages that are not shared any more: written, discarded, unmapped.
    case left(RegionPages)
    /// Something is wrong, in words.
    case broken(String)

    /// The pages of `shared`.
    var shared: RegionPages? {
        if case .shared(_, let pages) = self { pages } else { nil }
    }

    var text: String {
        switch self {
        case .forked(let process, let pid): "forked \(process) \(pid)"
        case .closed(let device): "closed \(device)"
        case .released(let device): "released \(device)"
        case .shared(let child, let pages): "shared \(child) \(pages.text)"
        case .moved(let move): "moved \(move.text)"
        case .collected(let pages): "collected \(pages.text)"
        case .mapped(let pages): "mapped \(pages.text)"
        case .left(let pages): "left \(pages.text)"
        case .broken(let words): "broken " + words
        }
    }

    init?(text: some StringProtocol) {
        if text.hasPrefix("broken ") {
            self = LiveEffect.broken(String(text.dropFirst(7)))
            return
        }
        let words = text.split(separator: " ")
        let numbers = words.dropFirst().compactMap { Int($0) }
        switch (words.first.map { String($0) }, numbers.count) {
        case ("forked", 2): self = .forked(process: numbers[0], pid: numbers[1])
        case ("closed", 1): self = .closed(device: numbers[0])
        case ("released", 1): self = .released(device: numbers[0])
        case ("shared", 4):
            self = .shared(child: numbers[0], RegionPages(numbers.dropFirst()))
        case ("moved", 4): self = .moved(SharedMove(numbers))
        case ("collected", 3): self = .collected(RegionPages(numbers))
        case ("mapped", 3): self = .mapped(RegionPages(numbers))
        case ("left", 3): self = .left(RegionPages(numbers))
        default: return nil
        }
    }
}

/// What a process answers: `NUMBER`, `RESULT`, `NOTE` and one effect a field, with tabs between.
struct LiveReply: Equatable {
    /// The line of the statement; 0 for every other request.
    var line = 0
    var result = StatementResult.ok
    /// What a person should know of the result; often empty.
    var note = ""
    var effects: [LiveEffect] = []

    var text: String {
        (["\(line)", result.text, note] + effects.map(\.text)).joined(separator: "\t")
    }

    init(line: Int = 0, result: StatementResult = .ok, note: String = "", effects: [LiveEffect] = []) {
        self.line = line
        self.result = result
        self.note = note
        self.effects = effects
    }

    init?(text: String) {
        let fields = text.split(separator: "\t", omittingEmptySubsequences: false)
        guard fields.count >= 3, let line = Int(fields[0]), let result = StatementResult(text: String(fields[1]))
        else { return nil }
        self.line = line
        self.result = result
        note = String(fields[2])
        for field in fields.dropFirst(3) {
            guard let effect = LiveEffect(text: field) else { return nil }
            effects.append(effect)
        }
    }
}
