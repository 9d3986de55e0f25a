// What stands at an address, as scheduling points name it, in the words of a person. Asked while all threads stand
// still somewhere between two steps: no lock is taken but those that commute, because whoever holds another one cannot
// go on, and nothing is announced.

extension Machine {
    /// What the object at `address` is; nil if it is none of the machine's. `name` says what pages are called.
    package func name(of address: UInt, page name: (PageNumber) -> String = { "\($0)" }) -> String? {
        if address == self.address { return "fault handlers of the devices" }
        if let own = frames.objectName(at: address) ?? swap.objectName(at: address) { return own }
        let spaces = addressSpaces
        for (index, space) in spaces.enumerated() {
            if let own = space.objectName(at: address) { return "\(own) of space \(index + 1)" }
            if let own = space.notifiers.clientObjectName(at: address) { return own }
            guard let own = space.pageObjectName(at: address, page: name) else { continue }
            return spaces.count == 1 ? own : "\(own), space \(index + 1)"
        }
        for file in files.all {
            if let own = file.objectName(at: address) { return own }
        }
        if address >> 60 == AnonVMATable.keyTag { return "entry of anonymous reverse map \(address & 0xffff_ffff)" }
        if address < UInt(Geometry.endPage.raw) { return "bytes of page \(name(PageNumber(UInt64(address))))" }
        return nil
    }
}

extension AddressSpace {
    /// An object of which there is one in each address space.
    fileprivate func objectName(at address: UInt) -> String? {
        switch address {
        case mmapLock.address: return "mmap lock"
        case cpuLock.address: return "list of CPUs"
        case lockSequenceKey: return "marks of mappings"
        case vmas.address: return "set of mappings"
        default: return notifiers.objectName(at: address)
        }
    }

    /// An object of a page table, a mapping or a CPU.
    fileprivate func pageObjectName(at address: UInt, page name: (PageNumber) -> String) -> String? {
        for vma in vmas.all {
            let pages = "the mapping from \(name(vma.pages.lowerBound))"
            switch address {
            case vma.lock.address: return "lock of \(pages)"
            case vma.hugetlbLock.address: return "hugetlb lock of \(pages)"
            case vma.anonVMAPublication.address: return "reverse map pointer of \(pages)"
            default: break
            }
            if let object = vma.chain.first(where: { $0.root.lockAddress == address }) {
                return "lock of anonymous reverse map \(object.root.id)"
            }
        }
        if isFlushKey(address) { return "TLB of a CPU" }
        return tables.objectName(at: address) { "page \(name($0))" }
    }
}

extension FileMapping {
    fileprivate func objectName(at address: UInt) -> String? {
        switch address {
        case invalidateLock.address: "invalidate lock of file \(id)"
        case mapLock.address: "map lock of file \(id)"
        default: cache.slot(at: address).map { "slot \($0) of file \(id)" }
        }
    }
}
