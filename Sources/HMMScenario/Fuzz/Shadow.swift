import HMM

/// A flat copy of what every page of every process must hold, kept beside a scenario that is played.
///
/// It knows nothing of frames, tables, folios, devices or swap: a region is an array of contents and rights, fork
/// copies it, and moving pages about changes nothing. Whatever the machine answers must agree. What it leaves open:
///
/// - which answers of the 6.12 test driver depend on its table (ENOENT of a migration, EFAULT of a write to a page of
///   its own memory that is read-only, EBUSY of exclusive access): the error is accepted, the bytes are checked;
/// - shared pages that only a device wrote, once page-out was asked for, with the same driver: it loses them;
/// - counts of pages moved, faults, and all of a snapshot but which pages can be seen at all.
struct Shadow {
    let scenario: Scenario
    let profile: KernelProfile
    /// By process, then by region. Nil: not forked yet, or gone.
    var processes: [[ShadowRegion]?]
    var objects: [ShadowObject] = []

    init(_ scenario: Scenario, _ profile: KernelProfile) {
        self.scenario = scenario
        self.profile = profile
        processes = Array(repeating: nil, count: scenario.processes.count)
        processes[0] = scenario.regions.map { ShadowRegion(pageCount: $0.pageCount) }
    }

    /// A place in a scenario.
    struct Span {
        var process: Int
        var region: Int
        var pages: Range<Int>
    }

    func region(_ span: Span) -> ShadowRegion { processes[span.process]![span.region] }

    mutating func update(_ span: Span, _ change: (inout ShadowRegion) -> Void) {
        change(&processes[span.process]![span.region])
    }

    // MARK: Contents

    func content(_ span: Span, _ page: Int) -> PageContent {
        let region = region(span)
        if let object = region.object { return objects[object].pages[page] }
        return region.own[page]
    }

    mutating func setContent(_ span: Span, _ page: Int, _ content: PageContent) {
        if let object = region(span).object {
            objects[object].pages[page] = content
        } else {
            processes[span.process]![span.region].own[page] = content
        }
    }

    mutating func write(_ span: Span, _ page: Int, _ seed: UInt32, byDevice: Bool) {
        setContent(span, page, .known(seed))
        if let object = region(span).object { objects[object].isWrittenByDevice[page] = byDevice }
    }

    /// Part of a write that failed: each page that may be written holds the old or the new.
    mutating func writeInPart(_ span: Span, _ seed: UInt32) {
        let region = region(span)
        for page in span.pages where region.isWritable(page) {
            setContent(span, page, content(span, page).or(.known(seed)))
        }
    }

    /// The part of `span` that is mapped becomes zero where forgetting shows: private pages, or those of the file when
    /// that is cut (`fromFile`).
    mutating func forget(_ span: Span, fromFile: Bool, isSure: Bool = true) {
        let region = region(span)
        guard region.object == nil || fromFile else { return }
        for page in span.pages where region.isMapped(page) {
            setContent(span, page, isSure ? .zero : content(span, page).or(.zero))
            if isSure, let object = region.object { objects[object].isWrittenByDevice[page] = false }
        }
    }

    // MARK: Comparing

    /// Compares what was read with what should be there; what is learnt is kept.
    mutating func compare(_ values: RunLengths<PageValue>, with span: Span) -> String? {
        guard values.count == span.pages.count else {
            return "\(span.pages.count) pages were asked for and \(values.count) came"
        }
        let region = region(span)
        var page = span.pages.lowerBound
        for run in values.runs {
            for _ in 0..<run.count {
                if let complaint = compare(run.value, region, span, page) { return complaint }
                page += 1
            }
        }
        return nil
    }

    private mutating func compare(
        _ value: PageValue, _ region: ShadowRegion, _ span: Span, _ page: Int
    ) -> String? {
        if value == .segmentationFault, !region.isReadable(page) || region.hasUnclearRights[page] { return nil }
        guard region.isReadable(page) || region.hasUnclearRights[page] else {
            return "page \(page) may not be read and holds '\(value.text)'"
        }
        let content = content(span, page)
        guard content.admits(value) else {
            return "page \(page) holds '\(value.text)' and should hold \(content.text)"
        }
        if case .known = content { return nil }
        if let seed = PageContent.seed(of: value) { setContent(span, page, .known(seed)) }
        return nil
    }
}
