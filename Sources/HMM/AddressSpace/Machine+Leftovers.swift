extension Machine {
    /// What is still taken, in words. Empty when every address space has exited, every mirror is closed and nothing was
    /// lost: a machine without processes has nothing.
    package var leftovers: [String] {
        var left: [String] = []
        func note(_ count: Int, _ what: @autoclosure () -> String) {
            if count != 0 { left.append("\(count) \(what())") }
        }
        note(addressSpaces.count, "address spaces")
        note(forgottenNotifiers, "notifiers of address spaces that are gone")
        note(frames.system.usedFrames, "system frames")
        for (index, memory) in frames.deviceZones.enumerated() {
            note(memory.usedFrames, "frames of device zone \(index)")
        }
        note(tables.usedTables, "page tables")
        note(swap.usedSlots, "swap slots")
        note(anonVMAs.live, "anonymous reverse maps")
        let hugetlb = frames.hugetlb.counts
        note(frames.hugetlb.pageCount - hugetlb.free, "hugetlb pages")
        note(hugetlb.reserved, "promised hugetlb pages")
        return left
    }
}
