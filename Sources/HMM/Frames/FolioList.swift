/// A list of folios through the records of their heads: those of a device, in the order of use.
///
/// It uses the links that the free lists use too: a folio is either free or used. `freeOrder` tells whether a record is
/// in the list. Guarded by the lock of the owner.
struct FolioList {
    private static let mark = UInt8.max

    private let records: UnsafeMutablePointer<FrameRecord>
    private var head: UInt32 = 0
    private var tail: UInt32 = 0
    private(set) var count = 0

    init(_ records: UnsafeMutablePointer<FrameRecord>) { self.records = records }

    var first: FrameNumber? { head == 0 ? nil : FrameNumber(head) }

    func forEach(_ body: (FrameNumber) -> Void) {
        var next = head
        while next != 0 {
            body(FrameNumber(next))
            next = records[Int(next)].next
        }
    }

    mutating func append(_ frames: UnsafePointer<FrameNumber>, count: Int) {
        for i in 0..<count { append(frames[i]) }
    }

    /// Puts the `more` frames that follow `head` in memory behind it in the list. The head is in it.
    mutating func insert(_ more: Int, behind head: FrameNumber) {
        let after = records[Int(head.raw)].next
        for raw in head.raw + 1...head.raw + UInt32(more) {
            let record = records + Int(raw)
            record.pointee.freeOrder = Self.mark
            record.pointee.previous = raw - 1
            records[Int(raw - 1)].next = raw
        }
        let last = head.raw + UInt32(more)
        records[Int(last)].next = after
        if after != 0 { records[Int(after)].previous = last } else { tail = last }
        count += more
    }

    mutating func append(_ frame: FrameNumber) {
        let record = records + Int(frame.raw)
        record.pointee.freeOrder = Self.mark
        record.pointee.next = 0
        record.pointee.previous = tail
        if tail != 0 { records[Int(tail)].next = frame.raw } else { head = frame.raw }
        tail = frame.raw
        count += 1
    }

    /// Takes folios out, as far as they are in the list.
    mutating func remove(_ frames: UnsafePointer<FrameNumber>, count: Int) {
        for i in 0..<count { remove(frames[i]) }
    }

    /// Takes the folio out, if it is in the list.
    mutating func remove(_ frame: FrameNumber) {
        let record = records + Int(frame.raw)
        guard record.pointee.freeOrder == Self.mark else { return }
        record.pointee.freeOrder = 0
        let (next, previous) = (record.pointee.next, record.pointee.previous)
        if previous != 0 { records[Int(previous)].next = next } else { head = next }
        if next != 0 { records[Int(next)].previous = previous } else { tail = previous }
        count -= 1
    }
}
