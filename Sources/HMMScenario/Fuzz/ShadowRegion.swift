import HMM

/// A region as one process sees it: what it may do with each page, and the contents if they are its own.
struct ShadowRegion {
    /// By page; nil where nothing is mapped.
    var protections: [Protection?]
    /// Pages whose rights are not known: an mprotect that failed may have come so far.
    var hasUnclearRights: [Bool]
    var options: MapOptions
    /// Contents that others see too: the number of an object of the shadow.
    var object: Int?
    /// Contents of a private region. Its file, if it has one, is never written, so that it shows zeros.
    var own: [PageContent]

    init(pageCount: Int) {
        protections = Array(repeating: nil, count: pageCount)
        hasUnclearRights = Array(repeating: false, count: pageCount)
        options = []
        own = Array(repeating: .zero, count: pageCount)
    }

    var isHugetlb: Bool { options.contains(.hugetlb) }
    var isShared: Bool { options.contains(.shared) }

    func isMapped(_ page: Int) -> Bool { protections[page] != nil }
    func isReadable(_ page: Int) -> Bool { protections[page]?.contains(.read) ?? false }
    func isWritable(_ page: Int) -> Bool { protections[page]?.contains(.write) ?? false }

    /// The whole region may be one mapping. Nothing else can be said from rights alone: neighbours with equal rights
    /// need not have merged.
    var mayBeOneMapping: Bool { protections[0] != nil && protections.allSatisfy { $0 == protections[0] } }
}

/// Contents that several mappings see.
struct ShadowObject {
    var pages: [PageContent]
    /// The last to write the page was a device. With 6.12's test driver, which does not mark pages dirty, page-out may
    /// drop such a page (`DmirrorWarts.writesStayClean`).
    var isWrittenByDevice: [Bool]

    init(pageCount: Int) {
        pages = Array(repeating: .zero, count: pageCount)
        isWrittenByDevice = Array(repeating: false, count: pageCount)
    }
}
