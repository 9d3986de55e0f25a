extension PageTables {
    /// What the entry or table lock at `address` is, for people; nil if it belongs to no table of this address space.
    /// Asked while all threads stand still.
    func objectName(at address: UInt, page name: (PageNumber) -> String) -> String? {
        objectName(at: address, in: root, .pgd, from: PageNumber(0), name)
    }

    private func objectName(
        at address: UInt, in table: PageTableNumber, _ level: PageLevel, from start: PageNumber,
        _ name: (PageNumber) -> String
    ) -> String? {
        let entries = pool.entries(table)
        let kind = ["PTE", "PMD", "PUD", "PGD"][level.rawValue]
        if address == UInt(bitPattern: pool.metadata(table)) {
            return "\(kind) table lock from \(name(start)) on"
        }
        let offset = address &- UInt(bitPattern: entries)
        if offset < UInt(Geometry.pageSizeBytes) {
            return "\(kind) of \(name(start.advanced(by: (Int(offset) >> 3) << level.order)))"
        }
        guard level > .pte else { return nil }
        for index in 0..<Geometry.entriesPerTable {
            let entry = read(entries + index)
            guard entry.isTable else { continue }
            let page = start.advanced(by: index << level.order)
            if let found = objectName(at: address, in: entry.table, level.below, from: page, name) { return found }
        }
        return nil
    }
}
