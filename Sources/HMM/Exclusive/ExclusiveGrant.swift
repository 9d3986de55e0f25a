/// A page that was just made exclusive to a device, its folio locked and referenced.
///
/// Until the grant is released nobody can take the page back: that is the time in which the driver programs its device.
/// It is released by `release()`, or when it goes out of scope.
///
/// Exclusive means: no CPU has a mapping, and no device that listens to notifiers. Who took a reference to the page
/// before (a pin, a system call under way) still reaches it.
public struct ExclusiveGrant: ~Copyable {
    public let page: PageNumber
    /// The page's frame; where its bytes are, before and after.
    public let frame: FrameNumber
    private let granter: any ExclusiveGranter

    /// The folio of `frame` is locked and referenced, and both pass to the grant.
    package init(page: PageNumber, frame: FrameNumber, by granter: any ExclusiveGranter) {
        self.page = page
        self.frame = frame
        self.granter = granter
    }

    /// The device is programmed: from now on the page may be taken back.
    public consuming func release() {}

    deinit { granter.endGrant(frame) }
}

/// Who makes pages exclusive to devices.
package protocol ExclusiveGranter: AnyObject {
    /// Whether the page is exclusive to a device, in this frame.
    func isExclusive(_ page: PageNumber, _ frame: FrameNumber) -> Bool
    /// From now on the page may be taken back.
    func endGrant(_ frame: FrameNumber)
}

extension AddressSpace: ExclusiveGranter {
    package func isExclusive(_ page: PageNumber, _ frame: FrameNumber) -> Bool {
        guard let leaf = leaf(page)?.0.softLeaf else { return false }
        return leaf.kind == .deviceExclusive && leaf.frame == frame
    }

    package func endGrant(_ frame: FrameNumber) {
        let head = frames.head(of: frame)
        frames.unlockFolio(head)
        frames.put(head)
    }
}
